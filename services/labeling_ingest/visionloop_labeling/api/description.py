"""The OpenAPI description: what FastAPI makes of the routes, and who may call each of them.

How callers are known and which role a call needs are no parts of the routes (`guards` asks before
them), so they are written into the description here, from the same table.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from visionloop_labeling.api.guards import LOGIN_COOKIE
from visionloop_labeling.permissions import ADMIN, ROUTES

_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
    "login": {
        "type": "apiKey",
        "in": "cookie",
        "name": LOGIN_COOKIE,
        "description": "A browser that is signed in (over TLS the name begins with __Host-). It "
        "sends X-CSRF-Token, from GET /v1/session, with what changes something.",
    },
}


def add_description(api: FastAPI) -> None:
    """Makes /openapi.json tell who may call what. After all routes were added."""

    def described() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _described(api)
        return api.openapi_schema

    api.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way


def _described(api: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=api.title, version=api.version, description=api.description, routes=api.routes
    )
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            role = ROUTES.get((method.upper(), path), ADMIN).role
            operation["security"] = [] if role is None else [{name: []} for name in _SCHEMES]
            needs = "Open to everybody." if role is None else f"Needs the role {role}."
            operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
    return schema
