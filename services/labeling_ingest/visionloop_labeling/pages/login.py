"""The page for signing in. Works without scripts, as everything before a login should."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from visionloop.errors import OverloadedError, UnauthenticatedError
from visionloop_labeling.api.callers import address, current
from visionloop_labeling.api.sessions import end_login, forget_login, set_login
from visionloop_labeling.auth import Gate
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService

START = "/"


def routes(service: LabelingService, gate: Gate) -> APIRouter:
    """Signing in and out."""
    api = APIRouter(include_in_schema=False)

    @api.get("/login")
    async def login_page(request: Request, next: str = START) -> Response:
        signed_in = getattr(request.state, "caller", None) is not None
        if signed_in or not gate.accounts:
            return RedirectResponse(_ours(next), 303)
        return render(request, "login.html", next=_ours(next), account="", problem="")

    @api.post("/login")
    async def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=200)] = "",
        password: Annotated[str, Form(max_length=1000)] = "",
        next: Annotated[str, Form()] = START,
    ) -> Response:
        if not gate.accounts:
            return RedirectResponse(START, 303)
        try:
            signed_in = await gate.sign_in(name.strip().lower(), password, address(request))
        except (UnauthenticatedError, OverloadedError) as error:
            context = {"next": _ours(next), "account": name, "problem": str(error)}
            return render(request, "login.html", status=error.http_status, **context)
        answer = RedirectResponse(_ours(next), 303)
        set_login(request, answer, signed_in)
        return answer

    @api.post("/logout")
    async def sign_out(request: Request, everywhere: Annotated[bool, Form()] = False) -> Response:
        await end_login(service, gate, request, current(request), everywhere=everywhere)
        answer = RedirectResponse("/login", 303)
        forget_login(request, answer)
        return answer

    return api


def _ours(wanted: str) -> str:
    """The path to go on to: of this site alone, whatever a link to the page says."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if plain and wanted.isprintable() and "\\" not in wanted else START
