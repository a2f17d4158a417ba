"""Who may call what: the one table of routes and RPCs, the role each needs, the body each takes.

A route or RPC that is not here needs an administrator, and a test fails until it is here. Paths are
templates as the routers have them. Where two templates fit a path, the higher role counts, so the
order of routes can never open anything.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from visionloop_labeling.accounts import Role


class Body(StrEnum):
    """How large a request may be; the sizes are the service's settings."""

    JSON = "json"
    IMAGE = "image"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call needs: at least this role, or nobody in particular (None)."""

    role: Role | None
    body: Body = Body.JSON


OPEN: Final = Rule(None)
SERVICE: Final = Rule(Role.SERVICE)
LABELLER: Final = Rule(Role.LABELLER)
REVIEWER: Final = Rule(Role.REVIEWER)
ADMIN: Final = Rule(Role.ADMIN)

_D: Final = "/v1/datasets/{dataset}"
_PAGE: Final = "/datasets/{dataset}"
ROUTES: Final[dict[tuple[str, str], Rule]] = {
    # Operation
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): SERVICE,  # it names datasets and classes
    ("GET", "/openapi.json"): SERVICE,
    # Signing in
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
    ("POST", "/logout"): SERVICE,
    ("GET", "/static/{version}/{name:path}"): OPEN,
    ("GET", "/v1/session"): SERVICE,
    ("POST", "/v1/session"): OPEN,
    ("DELETE", "/v1/session"): SERVICE,
    ("POST", "/v1/session/password"): SERVICE,
    ("GET", "/v1/tokens"): LABELLER,
    ("POST", "/v1/tokens"): LABELLER,
    ("DELETE", "/v1/tokens/{token_id}"): LABELLER,
    ("GET", "/v1/accounts"): ADMIN,
    ("POST", "/v1/accounts"): ADMIN,
    ("PATCH", "/v1/accounts/{name}"): ADMIN,
    ("DELETE", "/v1/accounts/{name}"): ADMIN,
    # Datasets, images, labels
    ("GET", "/v1/datasets"): SERVICE,
    ("POST", "/v1/datasets"): ADMIN,
    ("GET", f"{_D}/overview"): LABELLER,
    ("GET", f"{_D}/images"): LABELLER,
    ("POST", f"{_D}/images"): Rule(Role.SERVICE, Body.IMAGE),
    ("GET", f"{_D}/images/{{sha256}}"): LABELLER,
    ("GET", f"{_D}/images/{{sha256}}/history"): SERVICE,
    ("GET", f"{_D}/images/{{sha256}}/preview"): LABELLER,
    ("POST", f"{_D}/labels"): SERVICE,
    ("GET", f"{_D}/labels.csv"): SERVICE,
    ("GET", f"{_D}/events"): LABELLER,
    ("POST", f"{_D}/events"): LABELLER,
    ("POST", f"{_D}/events/batch"): LABELLER,
    ("GET", f"{_D}/queue"): LABELLER,
    ("POST", f"{_D}/queue/release"): LABELLER,
    # Classes
    ("GET", f"{_D}/classes"): SERVICE,
    ("POST", f"{_D}/classes"): REVIEWER,
    ("GET", f"{_D}/classes/history"): LABELLER,
    ("PATCH", f"{_D}/classes/{{class_id}}"): REVIEWER,
    ("POST", f"{_D}/classes/{{class_id}}/merge"): REVIEWER,
    ("POST", f"{_D}/classes/{{class_id}}/split"): REVIEWER,
    ("POST", f"{_D}/classes/{{class_id}}/retire"): REVIEWER,
    ("POST", f"{_D}/classes/{{class_id}}/restore"): REVIEWER,
    ("GET", f"{_D}/attributes"): LABELLER,
    ("PUT", f"{_D}/attributes"): REVIEWER,
    ("GET", f"{_D}/preferences"): LABELLER,
    ("PUT", f"{_D}/preferences"): REVIEWER,
    # Snapshots
    ("POST", f"{_D}/snapshots"): SERVICE,
    ("GET", f"{_D}/snapshots"): SERVICE,
    ("GET", f"{_D}/snapshots/{{snapshot}}"): SERVICE,
    ("GET", f"{_D}/snapshots/{{snapshot}}/diff"): SERVICE,
    ("GET", f"{_D}/export"): SERVICE,
    # Imports and quarantine
    ("GET", f"{_D}/imports"): ADMIN,
    ("POST", f"{_D}/imports"): Rule(Role.ADMIN, Body.IMPORT),
    ("GET", f"{_D}/imports/{{job_id}}"): ADMIN,
    ("GET", f"{_D}/imports/{{job_id}}/receipts"): ADMIN,
    ("POST", f"{_D}/imports/{{job_id}}/cancel"): ADMIN,
    ("GET", f"{_D}/quarantine"): ADMIN,
    ("DELETE", f"{_D}/quarantine/{{sha256}}"): ADMIN,
    ("POST", f"{_D}/quarantine/{{sha256}}/retry"): ADMIN,
    # Feedback of apps
    ("GET", "/v1/feedback/refused"): ADMIN,
    ("DELETE", "/v1/feedback/refused"): ADMIN,
    ("POST", "/v1/feedback/refused/retry"): ADMIN,
    ("POST", "/v1/feedback/refused/{feedback_id}/retry"): ADMIN,
    ("DELETE", "/v1/feedback/refused/{feedback_id}"): ADMIN,
    # Pages
    ("GET", "/"): SERVICE,
    ("POST", "/datasets"): ADMIN,
    ("GET", _PAGE): LABELLER,
    ("GET", f"{_PAGE}/label"): LABELLER,
    ("GET", f"{_PAGE}/grid"): LABELLER,
    ("GET", f"{_PAGE}/review"): REVIEWER,
    ("GET", f"{_PAGE}/images/{{sha256}}"): LABELLER,
    ("GET", f"{_PAGE}/classes"): LABELLER,
    ("GET", f"{_PAGE}/imports"): ADMIN,
    ("GET", f"{_PAGE}/quarantine"): ADMIN,
    ("GET", f"{_PAGE}/browse"): LABELLER,
    ("GET", f"{_PAGE}/snapshots"): LABELLER,
    ("GET", "/account"): LABELLER,
    ("GET", "/accounts"): ADMIN,
    ("GET", "/feedback"): ADMIN,
}

_LABELING: Final = "/visionloop.v1.LabelingIngest/"
_HEALTH: Final = "/grpc.health.v1.Health/"
METHODS: Final[dict[str, Rule]] = {
    f"{_LABELING}CreateDataset": ADMIN,
    f"{_LABELING}ListDatasets": SERVICE,
    f"{_LABELING}SubmitImages": SERVICE,
    f"{_LABELING}SubmitLabel": SERVICE,
    f"{_LABELING}CreateSnapshot": SERVICE,
    f"{_LABELING}ExportLabels": SERVICE,
    f"{_LABELING}Export": SERVICE,
    f"{_LABELING}GetHistory": SERVICE,
    f"{_HEALTH}Check": OPEN,
    f"{_HEALTH}Watch": OPEN,
    f"{_HEALTH}List": OPEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": OPEN,
}


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+(?::path)?\})", template)
    return re.compile("".join(map(_part, parts)))


def _part(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    return ".+" if part.endswith(":path}") else "[^/]+"


_PATTERNS: Final = [(method, path, _pattern(path), rule) for (method, path), rule in ROUTES.items()]


def of_route(method: str, path: str) -> tuple[str, Rule] | None:
    """The template that fits and what it needs; None for what is not in the table."""
    method = "GET" if method == "HEAD" else method
    fitting = [
        (template, rule)
        for of_method, template, pattern, rule in _PATTERNS
        if of_method == method and pattern.fullmatch(path)
    ]
    return max(fitting, key=lambda found: _height(found[1]), default=None)


def of_method(method: str) -> Rule:
    """What an RPC needs; `method` is "/package.Service/Name"."""
    return METHODS.get(method, ADMIN)


def _height(rule: Rule) -> int:
    return -1 if rule.role is None else list(Role).index(rule.role)
