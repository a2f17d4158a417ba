"""Requests made from the OpenAPI description: none may fail us, none may be answered off it.

Half of them are as described, half are wrong in one place; most are about a dataset, images and
classes that are there, or they would come no further than "not found". `make test` makes two of
each for every operation, on SQLite without accounts. FUZZ_CASES=n makes n/1000, there, on Postgres,
and as an administrator of a site with accounts.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from support.labeling_site import Site, served_site
from support.pictures import noise

from visionloop_labeling.permissions import ROUTES

CASES = int(os.environ.get("FUZZ_CASES", "0"))
EXAMPLES = max(2, CASES // 1000)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
ON_POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@dataclass
class Described:
    """A served site and what it says of itself. `token` is empty where there are no accounts."""

    site: Site
    schema: Any
    images: list[str]
    token: str
    answers: Counter[int] = field(default_factory=Counter)  # by status
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def ask(self, case: schemathesis.Case) -> None:
        """One request, and what is wrong with the answer."""
        if self.chance.random() < 0.75:
            self._name_what_is_there(case)
        answer = self._call(case)
        if answer.status_code == 401 and self.token:  # maybe it revoked its own token
            self.token = self.site.token("root", anew=True)
            answer = self._call(case)
        self.answers[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    def _call(self, case: schemathesis.Case) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return case.call(headers=headers)

    def _name_what_is_there(self, case: schemathesis.Case) -> None:
        there = {"dataset": "d", "sha256": self.chance.choice(self.images), "class_id": "a"}
        bodies = case.body.get("events", [case.body]) if isinstance(case.body, dict) else []
        for named in (case.path_parameters, *(bodies if isinstance(bodies, list) else ())):
            if isinstance(named, dict):
                named.update({name: one for name, one in there.items() if name in named})


@pytest.fixture(scope="module", params=["sqlite", ON_POSTGRES, "accounts"] if CASES else ["sqlite"])
def described(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Described]:
    """The service without accounts, where everybody may call everything; or an administrator."""
    folder, url = tmp_path_factory.mktemp("site"), ""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        url = server.url(server.create())
    secured = request.param == "accounts"
    with served_site(folder, database_url=url, with_accounts=secured) as (site, address):
        token = site.token("root") if secured else ""
        headers = {"Authorization": f"Bearer {token}"} if secured else {}
        images = []
        with httpx.Client(base_url=f"http://{address}", headers=headers) as http:
            for number in range(3):
                files = {"file": ("a.png", noise(number), "image/png")}
                answer = http.post("/v1/datasets/d/images", files=files, data={"label": "a"})
                images.append(answer.json()["sha256"])
        schema = schemathesis.openapi.from_url(f"http://{address}/openapi.json", headers=headers)
        yield Described(site, schema, images, token)


def ask(operation: schemathesis.schemas.APIOperation, mode: GenerationMode, of: Described) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: schemathesis.Case) -> None:
        of.ask(case)

    answered()


def test_every_answer_is_described(described: Described) -> None:
    asked, wrong = 0, []
    for result in described.schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:
            if mode.is_negative and not (operation.body or operation.query):
                continue  # what a path says is text, of which none is off the description
            asked += 1
            try:
                ask(operation, mode, described)
            except BaseExceptionGroup as error:
                wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert asked > 50
    good = sum(n for status, n in described.answers.items() if status < 300)
    assert good > described.answers.total() / 5, described.answers


def test_the_description_tells_who_may_call_what(described: Described) -> None:
    operations = {
        (method.upper(), path): operation
        for path, methods in described.schema.raw_schema["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) > 40
    for key, operation in operations.items():
        role = ROUTES[key].role
        assert bool(operation["security"]) == (role is not None)
        assert ("everybody" if role is None else f"role {role}") in operation["description"]
        answers = set(operation["responses"])
        assert key[1] == "/healthz" or {"401", "403", "429", "503"} <= answers, key
    assert "HTTPValidationError" not in described.schema.raw_schema["components"]["schemas"]
