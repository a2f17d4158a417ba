"""Coordinates of other tools as absolute pixels of the oriented image.

A camera stores pixels as its sensor lay and notes how to turn them (EXIF). Tools that ignored the
note drew their boxes on the stored frame; which one a file means shows from the size it names, when
the image lies on its side. Where both sizes are equal (a half turn, a mirror, a square) the
oriented frame is meant.

What hangs over the edge by a pixel or less is cut off: tools round. What lies farther out is
refused with its numbers, because then they are of another image, or of another unit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionloop.images import Limits, read_header
from visionloop_labeling.annotation import MAX_COUNTS, DraftBox, DraftShape
from visionloop_labeling.importers.entries import SourceError

TOLERANCE: Final = 1.0  # pixels
Point: TypeAlias = tuple[float, float]
Points: TypeAlias = Sequence[Point]


@dataclass(frozen=True, slots=True)
class Frame:
    """The oriented size of an image in pixels, and how it came from the stored one."""

    width: int
    height: int
    orientation: int = 1  # 1..8 as in EXIF

    @property
    def turned(self) -> bool:
        """Whether the stored image lies on its side."""
        return self.orientation >= 5

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) without orientation."""
        return (self.height, self.width) if self.turned else (self.width, self.height)

    def from_stored(self, point: Point) -> Point:
        """A point of the stored frame in the oriented one."""
        x, y = point
        if self.turned:
            x, y = y, x
        if self.orientation in (3, 4, 7, 8):
            y = self.height - y
        if self.orientation in (2, 3, 6, 7):
            x = self.width - x
        return x, y


def frame_of(image: bytes, limits: Limits) -> Frame:
    """The frame of an encoded image, from its header. Raises ImageError."""
    header = read_header(image, limits)
    return Frame(header.width, header.height, header.orientation)


class Canvas:
    """Draws what a file says of one image, checked against the image itself."""

    def __init__(self, frame: Frame, named_size: tuple[int, int] | None = None) -> None:
        """`named_size` is the size (width, height) that the file names. Raises SourceError."""
        self._frame = frame
        self._map: Callable[[Point], Point] = _same
        self.remark = ""
        if named_size is None or named_size == (frame.width, frame.height):
            return
        if named_size != frame.stored_size:
            raise SourceError(
                f"the file says {named_size[0]} x {named_size[1]} pixels, the image has "
                f"{frame.width} x {frame.height}: its coordinates are of another image",
                reason="size_mismatch",
                field="width",
            )
        self._map = frame.from_stored
        self.remark = (
            f"coordinates were of the stored frame ({named_size[0]} x {named_size[1]} pixels) and "
            f"were turned with the image (EXIF orientation {frame.orientation})"
        )

    def box(
        self,
        name: str,
        corner: Point,
        size: Point,
        field: str,
        attributes: dict[str, str | float] | None = None,
    ) -> DraftBox:
        """A box by its corner and (width, height). Raises SourceError."""
        if not (size[0] > 0 and size[1] > 0):
            raise SourceError(
                f"{field} is {size[0]:g} x {size[1]:g} pixels; a box has a width and a height",
                reason="bad_box",
                field=field,
            )
        opposite = (corner[0] + size[0], corner[1] + size[1])
        (x0, y0), (x1, y1) = self._placed((corner, opposite), field)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if not (right > left and bottom > top):
            raise SourceError(
                f"{field} at ({corner[0]:g}, {corner[1]:g}) lies on the edge of the image, which "
                f"is {self._frame.width} x {self._frame.height} pixels",
                reason="outside_image",
                field=field,
            )
        return DraftBox(
            class_name=name, x=left, y=top, width=right - left, height=bottom - top,
            attributes=attributes or {},
        )  # fmt: skip

    def polygon(self, name: str, points: Points, field: str) -> DraftShape:
        """A polygon by its corners. Raises SourceError."""
        if len(points) < 3:
            raise SourceError(
                f"{field} has {len(points)} points; a polygon has at least 3",
                reason="bad_polygon",
                field=field,
            )
        return DraftShape(class_name=name, kind="polygon", points=self._placed(points, field))

    def mask(
        self, name: str, counts: Sequence[int], size: tuple[int, int], field: str
    ) -> DraftShape:
        """A mask by its run lengths, (height, width). Raises SourceError."""
        frame = self._frame
        stored = self._map is not _same
        wanted = frame.stored_size[::-1] if stored else (frame.height, frame.width)
        if size != wanted or sum(counts) != size[0] * size[1] or min(counts, default=0) < 0:
            raise SourceError(
                f"{field} is a mask of {size[0]} x {size[1]} (height, width) with {sum(counts)} "
                f"pixels; the image has {wanted[0]} x {wanted[1]}",
                reason="size_mismatch",
                field=field,
            )
        if stored:
            counts = encoded(_turned(decoded(counts, size), frame.orientation))
            size = (frame.height, frame.width)
        if len(counts) > MAX_COUNTS:
            raise SourceError(
                f"{field} has {len(counts):,} runs; the limit is {MAX_COUNTS:,}",
                reason="bad_mask",
                field=field,
            )
        return DraftShape(class_name=name, kind="mask", counts=tuple(counts), size=size)

    def _placed(self, points: Iterable[Point], field: str) -> tuple[Point, ...]:
        return tuple(self._fitted(self._map(point), field) for point in points)

    def _fitted(self, point: Point, field: str) -> Point:
        width, height = self._frame.width, self._frame.height
        x, y = min(max(point[0], 0.0), float(width)), min(max(point[1], 0.0), float(height))
        if not (abs(x - point[0]) <= TOLERANCE and abs(y - point[1]) <= TOLERANCE):
            raise SourceError(
                f"{field} reaches ({point[0]:g}, {point[1]:g}); the image ends at ({width}, "
                f"{height})",
                reason="outside_image",
                field=field,
            )
        return x, y


def decoded(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width) of 0 and 1 from run lengths by columns, the first run being of 0."""
    values = np.arange(len(counts)) % 2
    columns = np.repeat(values, counts).astype(np.uint8)
    return columns.reshape(size[1], size[0]).T


def encoded(mask: NDArray[np.uint8]) -> list[int]:
    """Run lengths by columns of (height, width), the first run being of 0."""
    flat = mask.T.reshape(-1) != 0
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _turned(mask: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation >= 5:
        mask = mask.T
    if orientation in (3, 4, 7, 8):
        mask = mask[::-1]
    if orientation in (2, 3, 6, 7):
        mask = mask[:, ::-1]
    return mask


def _same(point: Point) -> Point:
    return point
