"""What every request passes before it is routed: whose page sent it, and how large it is."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionloop_labeling.api.errors import error_body


class OwnSiteOnly:
    """Refuses what another site's page sends through the browser of somebody who can reach us.

    A form on any page may post to a loopback address, and a label it sent would count as a
    person's. Browsers say where a request comes from; programs do not, and are let through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at requests that change something."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                text = f"a page of {origin[:100]!a} may not change anything here"
                await error_body(403, "permission_denied", text, "")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Stops reading a request's body once it is larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(
                    413, f"the request has more than {self._limit} bytes; send a smaller image"
                )
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
