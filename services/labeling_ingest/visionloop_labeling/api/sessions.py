"""Signing in and out, and one's own password."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import Response as AnyResponse

from visionloop.errors import RefusedError, UnauthenticatedError
from visionloop_labeling import accounts, logins
from visionloop_labeling.accounts import Caller, Role
from visionloop_labeling.api.callers import address, current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.guards import LOGIN_COOKIE, SECURE_LOGIN_COOKIE
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.auth import Gate, SignedIn
from visionloop_labeling.service import LabelingService

Who = Annotated[Caller, Depends(current)]
_Password = Annotated[str, Field(max_length=1000)]


class SessionOut(BaseModel):
    """Who is signed in. A browser sends `csrf` back as X-CSRF-Token with what changes something."""

    name: str
    role: Role
    csrf: str


class SignIn(RequestBody):
    """A name and its password."""

    name: Annotated[str, Field(max_length=200)]
    password: _Password


class NewPassword(RequestBody):
    """One's own new password."""

    old: _Password
    new: _Password


def routes(service: LabelingService, gate: Gate) -> APIRouter:
    """Sessions of browsers."""
    api = APIRouter(tags=["accounts"], responses=ERRORS)

    @api.get("/v1/session")
    async def session(request: Request, caller: Who) -> SessionOut:
        """Who the caller is."""
        return SessionOut(name=caller.name, role=caller.role, csrf=request.state.csrf)

    @api.post("/v1/session")
    async def sign_in(new: SignIn, request: Request, response: Response) -> SessionOut:
        """Signs a browser in: sets its cookie."""
        if not gate.accounts:
            raise RefusedError("this service has no accounts (--accounts); nobody need sign in")
        signed_in = await gate.sign_in(new.name, new.password, address(request))
        set_login(request, response, signed_in)
        caller = signed_in.caller
        return SessionOut(name=caller.name, role=caller.role, csrf=signed_in.csrf)

    @api.delete("/v1/session", status_code=204)
    async def sign_out(
        request: Request,
        response: Response,
        caller: Who,
        everywhere: Annotated[bool, Query(description="Every browser of the account.")] = False,
    ) -> None:
        """Signs this browser out, or all of the caller's."""
        await end_login(service, gate, request, caller, everywhere=everywhere)
        forget_login(request, response)

    @api.post("/v1/session/password", status_code=204)
    async def change_password(
        new: NewPassword, request: Request, response: Response, caller: Who
    ) -> None:
        """Changes one's own password, and signs out every browser, this one too."""
        need_accounts(caller)
        before = await gate.check_password(caller, new.old, address(request))
        stored = await gate.new_password(new.new, caller.name)

        def work() -> None:
            with service.database.write() as session:
                account = accounts.find(session, caller.name, lock=True)
                if account.password != before:
                    raise UnauthenticatedError("the password was changed just now; sign in again")
                accounts.set_password(session, account, stored)

        await service.run(work)
        forget_login(request, response)

    return api


def set_login(request: Request, response: AnyResponse, signed_in: SignedIn) -> None:
    """Gives the browser its cookie."""
    secure = request.url.scheme == "https"
    response.set_cookie(
        SECURE_LOGIN_COOKIE if secure else LOGIN_COOKIE,
        signed_in.login,
        max_age=int(logins.LONGEST.total_seconds()),
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def forget_login(request: Request, response: AnyResponse) -> None:
    """Takes the cookie back."""
    secure = request.url.scheme == "https"
    name = SECURE_LOGIN_COOKIE if secure else LOGIN_COOKIE
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")


async def end_login(
    service: LabelingService, gate: Gate, request: Request, caller: Caller, *, everywhere: bool
) -> None:
    """Ends the login of this request, or all of the caller's."""
    if not everywhere:
        await gate.sign_out(request.state.login)
        return

    def work() -> None:
        with service.database.write() as session:
            accounts.sign_out(session, accounts.find(session, caller.name))

    if caller.account is not None:
        await service.run(work)


def need_accounts(caller: Caller) -> None:
    """Raises RefusedError on a service where nobody has an account."""
    if caller.account is None:
        raise RefusedError("this service has no accounts (--accounts)")
