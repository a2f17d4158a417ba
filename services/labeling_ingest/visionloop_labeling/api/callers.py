"""The caller of an HTTP request, as a dependency of routes.

Which role a route needs stands in `permissions`; `at_least` is for what a part of a route needs.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from visionloop.errors import PermissionDeniedError, UnauthenticatedError
from visionloop_labeling.accounts import Caller, Role


def current(request: Request) -> Caller:
    """Who calls; a guard has put it into the request's state. Raises UnauthenticatedError."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise UnauthenticatedError("sign in first")
    return caller


def at_least(role: Role) -> Callable[[Caller], Caller]:
    """A dependency that gives the caller, or refuses one of a lower role."""

    def check(caller: Annotated[Caller, Depends(current)]) -> Caller:
        if not caller.may(role):
            raise PermissionDeniedError(
                f"{caller.name} is a {caller.role}; this needs the role {role}"
            )
        return caller

    return check


def address(request: Request) -> str:
    """Where the request comes from, as far as can be told."""
    return request.client.host if request.client is not None else ""
