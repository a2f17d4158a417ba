"""Pages from templates: one `render`, which puts the frame's context and the safety headers there.

Every value is escaped by Jinja; a template has no inline script and no inline style, because the
content security policy would not run them. What a script needs stands in data attributes, or in a
`<script type="application/json">` made by the filter `tojson`, which escapes `<`, `>` and `&`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import visionloop
from visionloop_labeling.accounts import LOCAL
from visionloop_labeling.pages import assets

# Nothing here is meant for another site's page, and no stored text may run as a script.
# Images come from us, from what a script has fetched already (blob:), and from small icons (data:).
SAFE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A page shows what its reader may see at that moment: asked for anew, and kept for nobody else.
    "Cache-Control": "private, no-cache",
}
_THEMES: Final = ("light", "dark")


def render(request: Request, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """The template as a page. The frame adds `caller`, `csrf`, `version`, `theme` and `path`."""
    theme = request.cookies.get("theme", "")
    frame = {
        "caller": getattr(request.state, "caller", LOCAL),
        "csrf": getattr(request.state, "csrf", ""),
        "version": visionloop.__version__,
        "theme": theme if theme in _THEMES else "",
        "path": request.url.path,
    }
    html = _TEMPLATES.get_template(name).render(frame | context)
    return HTMLResponse(html, status, headers=dict(SAFE_HEADERS))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _percent(part: float, whole: float) -> str:
    """A share for people: never 0 % of something, never 100 % before the end."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 1:
        return "< 1 %"
    if 99 < share < 100:
        return "> 99 %"
    return f"{share:.0f} %"


def _bytes(value: int) -> str:
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _moment(value: datetime | None) -> str:
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds")


def _segment(value: str) -> str:
    return quote(value, safe="")


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["static"] = assets.url
    made.filters |= {
        "number": _number,
        "bytes": _bytes,
        "moment": _moment,
        "instant": _instant,
        "segment": _segment,
    }
    made.globals["percent"] = _percent
    return made


_TEMPLATES: Final = _environment()
