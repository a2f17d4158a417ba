"""Headers that keep browsers from doing more with an answer than we meant. Pages have their own."""

from collections.abc import Mapping
from typing import Final

SAFE_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
STRICT_TRANSPORT: Final = "max-age=31536000"
