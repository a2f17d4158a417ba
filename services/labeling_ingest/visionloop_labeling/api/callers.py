"""The caller of an HTTP request, as a dependency of routes."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from visionloop.errors import PermissionDeniedError
from visionloop_labeling.accounts import LOCAL, Caller, Role


def current(request: Request) -> Caller:
    """Who calls; a guard has put it into the request's state."""
    caller = getattr(request.state, "caller", LOCAL)
    return caller if isinstance(caller, Caller) else LOCAL


def at_least(role: Role) -> Callable[[Caller], Caller]:
    """A dependency that gives the caller, or refuses one of a lower role."""

    def check(caller: Annotated[Caller, Depends(current)]) -> Caller:
        if not caller.may(role):
            raise PermissionDeniedError(
                f"{caller.name} is a {caller.role}; this needs the role {role}"
            )
        return caller

    return check
