"""Requests made from the OpenAPI description: none may fail us, none may be answered off it.

Half of them are as described, half are wrong in one place. SCHEMATHESIS_EXAMPLES=200 runs so many
of each for every operation, on both databases.
"""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from support.labeling_site import served_site

from visionloop_labeling.permissions import ROUTES

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


ON_POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(
    scope="module",
    params=["sqlite", ON_POSTGRES] if "SCHEMATHESIS_EXAMPLES" in os.environ else ["sqlite"],
)
def described(tmp_path_factory, request):
    """The service without accounts: everybody may call everything."""
    folder, url = tmp_path_factory.mktemp("site"), ""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        url = server.url(server.create())
    with served_site(folder, database_url=url, with_accounts=False) as (_, address):
        yield schemathesis.openapi.from_url(f"http://{address}/openapi.json")


def ask(operation: schemathesis.schemas.APIOperation, mode: GenerationMode) -> None:
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
        case.validate_response(case.call(), checks=CHECKS)

    answered()


def test_every_answer_is_described(described) -> None:
    asked, wrong = 0, []
    for result in described.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:
            if mode.is_negative and not (operation.body or operation.query):
                continue  # what a path says is text, of which none is off the description
            asked += 1
            try:
                ask(operation, mode)
            except BaseExceptionGroup as error:
                wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert asked > 50


def test_the_description_tells_who_may_call_what(described) -> None:
    operations = {
        (method.upper(), path): operation
        for path, methods in described.raw_schema["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) > 40
    for key, operation in operations.items():
        role = ROUTES[key].role
        assert bool(operation["security"]) == (role is not None)
        assert ("everybody" if role is None else f"role {role}") in operation["description"]
        answers = set(operation["responses"])
        assert key[1] == "/healthz" or {"401", "403", "429", "503"} <= answers, key
    assert "HTTPValidationError" not in described.raw_schema["components"]["schemas"]
