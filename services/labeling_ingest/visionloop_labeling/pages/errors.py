"""Errors as pages: who follows a link reads a sentence, not JSON."""

from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from visionloop.errors import UnauthenticatedError, VisionloopError
from visionloop_labeling.pages.rendering import render

_HEADINGS: Final = {
    400: "That does not work",
    403: "Not yours to do",
    404: "Not here",
    409: "Somebody was faster",
    412: "Refused",
    422: "That does not work",
    429: "Too much at once",
    503: "Not right now",
}


class PageRoute(APIRoute):
    """A route of a page: its errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors turned into pages."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except UnauthenticatedError:
                there = quote(request.url.path, safe="/")
                return RedirectResponse(f"/login?next={there}", 303)
            except VisionloopError as error:
                return error_page(request, error.http_status, str(error))
            except RequestValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"][1:])
                return error_page(request, 422, f"{field}: {first['msg']}")

        return handled


def error_page(request: Request, status: int, message: str) -> Response:
    """The page that says what went wrong."""
    heading = _HEADINGS.get(status, "Something went wrong")
    context: dict[str, object] = {"heading": heading, "message": message}
    context["again"] = request.method == "GET" and (status == 429 or status >= 500)
    return render(request, "error.html", status=status, **context)
