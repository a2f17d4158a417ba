"""Pictures for browsers; never the originals."""

from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Response

from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.previews import Previews
from visionloop_labeling.renditions import MEDIA_TYPE, recipe_for
from visionloop_labeling.service import LabelingService

# `private`: who may see the image may keep it, a cache between us and him may not.
_HEADERS: Final = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def routes(service: LabelingService) -> APIRouter:
    """Previews."""
    api = APIRouter(tags=["images"])
    previews: Previews = service.previews

    @api.get(
        "/v1/datasets/{dataset}/images/{sha256}/preview",
        response_class=Response,
        responses={
            **ERRORS,
            200: {"content": {MEDIA_TYPE: {}}, "description": "The picture."},
            304: {"description": "The picture that the caller has is the right one."},
        },
    )
    async def preview(
        dataset: str,
        sha256: str,
        edge: Annotated[int, Query(description="Pixels of the longer side: 256 or 1600.")] = 1600,
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        """The image upright, in sRGB, without metadata, as WebP; never larger than the original."""
        recipe = recipe_for(edge)
        digest = await service.run(previews.check, dataset, sha256)
        headers = {**_HEADERS, "ETag": f'"{recipe.name}-{digest}"'}
        if headers["ETag"] in (tag.strip() for tag in if_none_match.split(",")):
            return Response(status_code=304, headers=headers)
        picture = await service.preview(digest, recipe)
        return Response(picture, media_type=MEDIA_TYPE, headers=headers)

    return api
