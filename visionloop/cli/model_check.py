"""`visionloop models check`: does the running service give the answers that were published?

Asks for golden images of what stable names, over the network as an app does, and compares version
and probabilities. It is what `helm test` runs. Golden images and expected answers come from the
store, so nothing has to be at hand; the price is one fetch of the version, graph included.
"""

import argparse
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from visionloop.bundle import Bundle, ClassifierBundle, GoldenItem
from visionloop.cli.output import Output
from visionloop.cli.predict import open_client
from visionloop.cli.store import open_from
from visionloop.client import Client, Recognition
from visionloop.disk_space import temporary_folder
from visionloop.errors import NotFoundError, RefusedError
from visionloop.repository import ModelRepository

_ITEMS = TypeAdapter(list[GoldenItem])


@dataclass(frozen=True, slots=True)
class Checked:
    """What one model's answers were. `difference` is the largest of any probability."""

    model: str
    version: int
    images: int
    difference: float | None
    allowed: float | None


def check(options: argparse.Namespace, output: Output) -> int:
    """One line per promoted model. Raises RefusedError on the first that answers otherwise."""
    repository = ModelRepository(open_from(options))
    models = [options.model] if options.model else _promoted(repository)
    with open_client(options) as client:
        checked = [_check_model(repository, client, model) for model in models]
    output.result([asdict(one) for one in checked])
    output.table(
        ["model", "version", "golden images", "largest difference", "allowed"],
        [[one.model, one.version, one.images, one.difference, one.allowed] for one in checked],
    )
    return 0


def _promoted(repository: ModelRepository) -> list[str]:
    models = [
        model
        for model in repository.models()
        if repository.aliases(model).aliases.stable is not None
    ]
    if not models:
        raise NotFoundError("no model of this store is promoted yet: there is nothing to ask for")
    return models


def _check_model(repository: ModelRepository, client: Client, model: str) -> Checked:
    version = repository.resolve(model, "stable")
    with temporary_folder("visionloop-check-") as folder:
        bundle: Bundle = repository.fetch(model, version, folder)
        if not isinstance(bundle, ClassifierBundle):  # no golden images are kept with it
            return Checked(model, version, 0, None, None)
        items = _ITEMS.validate_json((folder / bundle.golden.file).read_bytes())
        items = items[: bundle.golden.before_ready]
        found = client.recognize(
            [folder / item.file for item in items], model=model, version="stable", top_k=0
        )
    # Which provider and precision serve is the service's affair, so the loosest of them counts.
    allowed = max(bundle.golden.max_probability_difference.values())
    differences = [
        _difference(bundle, item, recognition)
        for item, recognition in zip(items, found, strict=True)
    ]
    if not max(differences) <= allowed:
        raise RefusedError(
            f"version {version} of model {model!r} answers for its golden images with "
            f"probabilities {max(differences):.2g} away from the published ones; {allowed:.2g} is "
            "allowed"
        )
    return Checked(model, version, len(items), max(differences), allowed)


def _difference(bundle: ClassifierBundle, item: GoldenItem, found: Recognition) -> float:
    """The largest difference of any class that was answered: all, or the best of thousands.

    Raises RefusedError for another version's answer.
    """
    if found.error is not None:
        raise found.error
    if found.version != bundle.version:
        raise RefusedError(
            f"stable of model {bundle.model!r} is version {bundle.version}, but version "
            f"{found.version} answered; right after a promotion, try again in some seconds"
        )
    published = zip(bundle.labels, item.probabilities, strict=True)
    expected = {label.id: probability for label, probability in published}
    unknown = [label.class_id for label in found.labels if label.class_id not in expected]
    if unknown:
        raise RefusedError(
            f"version {bundle.version} of model {bundle.model!r} answers with the class "
            f"{unknown[0]!r}, which the one in this store has not; does the service use another "
            "store?"
        )
    return max(abs(label.probability - expected[label.class_id]) for label in found.labels)
