"""The style sheets and scripts: read once at start, served under an address with their digest.

`/static/<version>/label/page.js`: the version is one digest over all files, so that modules import
one another by relative paths and a browser may keep them for ever. A change of any file changes
every address; the price is that browsers fetch all of it again (well under 1 MB) after an upgrade.
A page of another replica's version gets what is here, and must not keep it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from visionloop.errors import NotFoundError

_FOLDER: Final = Path(__file__).resolve().parent.parent / "static"
# What may be served, and as what: never guessed from the machine's settings.
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str


def _read(folder: Path) -> dict[str, _Asset]:
    return {
        path.relative_to(folder).as_posix(): _Asset(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def _digest(assets: dict[str, _Asset]) -> str:
    digest = hashlib.sha256()
    for name, asset in assets.items():
        digest.update(f"{name}\0{len(asset.body)}\0".encode())
        digest.update(asset.body)
    return digest.hexdigest()[:12]


_ASSETS: Final = _read(_FOLDER)
VERSION: Final = _digest(_ASSETS)


def url(name: str) -> str:
    """The address of a file under static/. Raises KeyError for one that is not there."""
    if name not in _ASSETS:
        raise KeyError(f"there is no static/{name}")
    return f"/static/{VERSION}/{name}"


def routes() -> APIRouter:
    """The files. Anybody may have them: the page for signing in needs them."""
    api = APIRouter(include_in_schema=False)

    @api.get("/static/{version}/{name:path}")
    async def static_file(request: Request, version: str, name: str) -> Response:
        asset = _ASSETS.get(name)
        if asset is None:
            raise NotFoundError(f"there is no static file {name[:100]!a}")
        headers = {
            "Cache-Control": _FOR_EVER if version == VERSION else "no-store",
            "ETag": f'"{VERSION}"',
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    return api
