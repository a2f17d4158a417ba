"""Moving stable to what a run published, if gate or --force say so and nobody else moved it."""

from visionloop.bundle import ClassifierBundle
from visionloop.errors import ConflictError, DiskFullError
from visionloop.repository import CurrentAliases, ModelRepository
from visionloop_training import publish
from visionloop_training.request import Request
from visionloop_training.verdict import Verdict


def promote(
    request: Request, bundle: ClassifierBundle, before: CurrentAliases, verdict: Verdict
) -> tuple[bool, str]:
    """(whether stable moved, words about a lost race). `before` is what the gate looked at."""
    if not request.promote or verdict.mode == "manual":
        return False, ""
    if not (verdict.passed or request.force):
        return False, ""
    if before.aliases.pinned is not None:
        return False, ""
    why = f"gate passed: {verdict.reason}"
    if not verdict.passed:
        why = f"forced against the gate's verdict: {verdict.reason}"
    try:
        ModelRepository(request.store).promote(
            request.model,
            bundle.version,
            expected=before,
            who=request.who or publish.default_who(),
            why=why,
            metrics=bundle.metrics,
        )
    except ConflictError as error:
        return False, str(error)
    except DiskFullError as error:
        raise DiskFullError(
            f"version {bundle.version} of {request.model} is published and not yet promoted "
            f"(visionloop models promote {request.model} {bundle.version} --why …): {error.what}",
            error.setting,
        ) from error
    return True, ""
