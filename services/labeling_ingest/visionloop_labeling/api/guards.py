"""What every request passes before it is routed, from the outside in:

    SafeAnswers    headers that keep browsers from doing more with an answer than we meant
    OwnHostOnly    where only this machine is served: no other name for it (DNS rebinding)
    OwnSiteOnly    whose page sent it
    KnownCallers   who sent it, and whether they may (`auth`, `permissions`)
    BodyLimit      how large it is, and how slowly it comes

All answer by themselves what they refuse, before a byte of the body is read.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionloop.errors import PermissionDeniedError, UnauthenticatedError, VisionloopError
from visionloop.own_site import foreign_page, is_this_machine
from visionloop_labeling import permissions
from visionloop_labeling.api.errors import answer_to, error_body, refusal, wants_page
from visionloop_labeling.api.headers import SAFE_HEADERS, STRICT_TRANSPORT
from visionloop_labeling.auth import Gate, SignedIn
from visionloop_labeling.permissions import ADMIN, SERVICE, Body, Rule

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# The longer name is refused by browsers unless the cookie is for this host alone and over TLS.
LOGIN_COOKIE: Final = "visionloop-login"
SECURE_LOGIN_COOKIE: Final = "__Host-visionloop-login"

LOGIN_PAGE: Final = "/login"  # open, and asks whether one is signed in already
FORM: Final = "application/x-www-form-urlencoded"
FORM_BYTES: Final = 64 * 2**10
WAIT_SECONDS: Final = 30.0  # for the next bytes of a body
SLOWEST: Final = 4096  # bytes a second of a body, after the first WAIT_SECONDS


class SafeAnswers:
    """Puts the safety headers on every answer that has none of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at the beginning of each answer."""

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", STRICT_TRANSPORT)
            await send(message)

        await self._app(scope, receive, safe if scope["type"] == "http" else send)


class OwnHostOnly:
    """For a service on loopback without accounts: a name that is not this machine's is refused.

    A page may point its own name at 127.0.0.1; to the browser it is then the page's own site.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at the Host header."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            if not is_this_machine(host):
                text = f"this service answers as localhost alone, not as {host[:100]!a}"
                await error_body(403, "permission_denied", text, "host")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OwnSiteOnly:
    """Refuses what another site's page sends (`visionloop.own_site`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at requests that change something."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            page = foreign_page(Headers(scope=scope))
            if page is not None:
                text = f"a page of {page} may not change anything here"
                await error_body(403, "permission_denied", text, "")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class KnownCallers:
    """Finds out who calls, and refuses who may not. Sets `caller`, `csrf`, `login` in the state."""

    def __init__(self, app: ASGIApp, gate: Gate, routes: Router) -> None:
        """`routes` are asked only about paths that the table of permissions does not have."""
        self._app = app
        self._gate = gate
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks up who calls."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = self._rule(scope)
        scope["rule"] = rule
        try:
            receive = await self._let_in(rule, scope, receive)
        except UnauthenticatedError as error:
            answer = _to_login(scope) if wants_page(scope) else answer_to(error)
            await answer(scope, receive, send)
        except VisionloopError as error:
            await refusal(scope, error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _rule(self, scope: Scope) -> Rule:
        found = permissions.of_route(scope["method"], scope["path"])
        if found is not None:
            scope["template"], rule = found
            return rule
        # A route that was forgotten in the table is for administrators; what is no route at all is
        # answered 404 to everybody who is known.
        known = any(r.matches(dict(scope))[0] is not Match.NONE for r in self._routes.routes)
        return ADMIN if known else SERVICE

    async def _let_in(self, rule: Rule, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        login = _login_of(headers, scope["scheme"])
        if rule.role is None and not (login and scope["template"] == LOGIN_PAGE):
            return receive
        try:
            signed_in = await self._gate.known(headers.get("authorization", ""), login)
        except UnauthenticatedError:
            if rule.role is None:
                return receive
            raise
        state = scope.setdefault("state", {})
        state |= {"caller": signed_in.caller, "csrf": signed_in.csrf, "login": signed_in.login}
        if rule.role is None:
            return receive
        self._gate.admit(rule, signed_in.caller)
        if signed_in.login and scope["method"] not in SAFE_METHODS:
            return await _own_page(signed_in, headers, receive)
        return receive


def _login_of(headers: Headers, scheme: str) -> str:
    """The secret of the login cookie, "" without one.

    Over TLS only the one that no other host and no plain connection can have set.
    """
    name = SECURE_LOGIN_COOKIE if scheme == "https" else LOGIN_COOKIE
    return cookie_parser(headers.get("cookie", "")).get(name, "")


async def _own_page(signed_in: SignedIn, headers: Headers, receive: Receive) -> Receive:
    """Checks the token that only our pages know. Raises PermissionDeniedError without it."""
    given = headers.get("x-csrf-token", "")
    if not given and headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
        body = await _small_body(receive)
        given = parse_qs(body.decode("latin-1")).get("csrf", [""])[0]
        receive = _again(body)
    if not hmac.compare_digest(given.encode(), signed_in.csrf.encode()):
        raise PermissionDeniedError(
            "a browser that is signed in must send the page's token (header X-CSRF-Token, or the "
            "form's field csrf); load the page again"
        )
    return receive


async def _small_body(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await _whole(receive)
    except TimeoutError:
        raise PermissionDeniedError("the form came too slowly; send it again") from None


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > FORM_BYTES:
            raise PermissionDeniedError(f"a form may have at most {FORM_BYTES} bytes")
        if not message.get("more_body", False):
            return body


def _again(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def _to_login(scope: Scope) -> RedirectResponse:
    wanted = scope["path"] + (
        f"?{query}" if (query := scope["query_string"].decode("latin-1")) else ""
    )
    return RedirectResponse(f"/login?next={quote(wanted, safe='/')}", 303)


class BodyLimit:
    """Stops reading a request's body that is larger than its route takes, or comes too slowly."""

    def __init__(self, app: ASGIApp, sizes: Mapping[Body, int]) -> None:
        self._app = app
        self._sizes = sizes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule: Rule = scope.get("rule", SERVICE)
        limit = self._sizes[rule.body]
        received = 0
        waited = 0.0  # for the sender alone, not for what is done with what came
        complete = False

        async def counted() -> Message:
            nonlocal received, waited, complete
            if complete:  # what comes now is the end of the connection, whenever that is
                return await receive()
            began = time.monotonic()
            patience = min(WAIT_SECONDS, WAIT_SECONDS + received / SLOWEST - waited)
            try:
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the request came too slowly: {received} bytes; send it again"
                ) from None
            waited += time.monotonic() - began
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > limit:
                raise HTTPException(
                    413, f"the request has more than {limit} bytes; send it in smaller parts"
                )
            return message

        await self._app(scope, counted, send)
