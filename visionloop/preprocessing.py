"""From encoded bytes to the graph's input: a versioned list of steps, stored in bundle.json.

Training's evaluation transform, the inference front end and the ingest's suggestions all call the
same object, so a model is served the pixels it was tested on. Steps work on uint8 RGB and resize by
Pillow, which is antialiased and gives the same bytes on every machine with the same Pillow; the
price is that torch's own (float, GPU) resize differs from it by a few grey levels and must not be
mixed in. Mean and standard deviation are recorded here but applied inside the graph.

Of a phone's photograph of 12 megapixels a graph sees a hundredth, and its decoding and resizing are
most of what a request costs. With a `reducing_gap` it is first reduced by a whole number, a JPEG
while it is decoded: 39 ms instead of 123, and pixels 0.3 grey levels away on average
(`python -m bench.reducing`).

Every step is a map of coordinates as well (`Placement`), so that a box found in the graph's input
comes back in the caller's pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from visionloop.errors import InvalidInputError
from visionloop.images import DEFAULT_LIMITS, Box, Header, Limits, decode_reduced
from visionloop.record import Record

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Side = Annotated[int, Field(ge=1, le=16_384)]  # pixels

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a step's output lies in its input: source = output * scale + offset, on each axis.

    Coordinates are continuous: 0 is the left or top edge of the image, the centre of the first
    pixel is at 0.5. `width` and `height` are the output's size in pixels.
    """

    width: int
    height: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    def after(self, earlier: "Placement") -> "Placement":
        """The placement of both steps together, `earlier` first."""
        return Placement(
            width=self.width,
            height=self.height,
            scale_x=self.scale_x * earlier.scale_x,
            scale_y=self.scale_y * earlier.scale_y,
            offset_x=self.offset_x * earlier.scale_x + earlier.offset_x,
            offset_y=self.offset_y * earlier.scale_y + earlier.offset_y,
        )

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """From the output's coordinates to the input's."""
        return x * self.scale_x + self.offset_x, y * self.scale_y + self.offset_y

    def from_source(self, x: float, y: float) -> tuple[float, float]:
        """From the input's coordinates to the output's."""
        return (x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y


class Resize(Record):
    """To exactly `height` x `width`; the aspect ratio is not kept ("squash")."""

    step: Literal["resize"] = "resize"
    height: Side
    width: Side
    interpolation: Interpolation = "bicubic"

    def placement(self, width: int, height: int) -> Placement:
        """Where the output lies in an input of this size."""
        return Placement(
            width=self.width,
            height=self.height,
            scale_x=width / self.width,
            scale_y=height / self.height,
        )

    def apply(self, image: Image.Image) -> Image.Image:
        """The resized RGB image."""
        return _resized(image, self.width, self.height, self.interpolation)


class ResizeShorterSide(Record):
    """The shorter side becomes `size` pixels, the longer one follows, rounded down.

    An image of aspect ratio r needs size * size * r pixels on its way through.
    """

    step: Literal["resize_shorter_side"] = "resize_shorter_side"
    size: Side
    interpolation: Interpolation = "bicubic"

    def placement(self, width: int, height: int) -> Placement:
        """Where the output lies in an input of this size."""
        longer = self.size * max(width, height) // min(width, height)
        new_width, new_height = (self.size, longer) if width <= height else (longer, self.size)
        return Placement(
            width=new_width,
            height=new_height,
            scale_x=width / new_width,
            scale_y=height / new_height,
        )

    def apply(self, image: Image.Image) -> Image.Image:
        """The resized RGB image."""
        target = self.placement(image.width, image.height)
        return _resized(image, target.width, target.height, self.interpolation)


class CenterCrop(Record):
    """The middle `height` x `width` pixels, with black around an image that is smaller."""

    step: Literal["center_crop"] = "center_crop"
    height: Side
    width: Side

    def placement(self, width: int, height: int) -> Placement:
        """Where the output lies in an input of this size."""
        return Placement(
            width=self.width,
            height=self.height,
            offset_x=_crop_offset(width, self.width),
            offset_y=_crop_offset(height, self.height),
        )

    def apply(self, image: Image.Image) -> Image.Image:
        """The cropped RGB image."""
        left = _crop_offset(image.width, self.width)
        top = _crop_offset(image.height, self.height)
        return image.crop((left, top, left + self.width, top + self.height))


Step = Annotated[Resize | ResizeShorterSide | CenterCrop, Field(discriminator="step")]
Deviation = Annotated[float, Field(gt=0.0)]
Gap = Annotated[float, Field(ge=1.0, le=16.0)]


class Preprocessing(Record):
    """Steps in order, and the normalisation that the graph applies after them.

    The last step fixes the size, so the output's shape does not depend on the image.
    `mean` and `std` are per channel (R, G, B), for pixels scaled to 0..1.

    With a `reducing_gap` the image is first reduced by a whole number, as far as it stays that many
    times larger than the first step's output: a JPEG by libjpeg while it is decoded (to a half, a
    quarter or an eighth), the rest by the mean of neighbours. That is what Pillow's `thumbnail`
    calls so, and says of it: at 2 close to resampling all pixels, at 3 not to be told from it. It
    does nothing where the first step crops, or takes the nearest pixel. One that is not set is not
    written: programs that do not know it read such a bundle.
    """

    version: Literal[1] = 1
    steps: Annotated[list[Step], Field(min_length=1, max_length=16)]
    mean: tuple[float, float, float]
    std: tuple[Deviation, Deviation, Deviation]
    reducing_gap: Gap | None = None

    @model_validator(mode="after")
    def _last_step_fixes_the_size(self) -> Self:
        if isinstance(self.steps[-1], ResizeShorterSide):
            raise ValueError(
                "steps ends with resize_shorter_side, whose output depends on the image; "
                "end with resize or center_crop"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) in pixels of every output."""
        last = self.placement(1, 1)
        return last.height, last.width

    def placement(self, width: int, height: int) -> Placement:
        """Where the output lies in a source image of `width` x `height` pixels."""
        whole = Placement(width=width, height=height)
        for step in self.steps:
            whole = step.placement(whole.width, whole.height).after(whole)
        return whole

    def of_file(
        self, data: bytes, limits: Limits = DEFAULT_LIMITS
    ) -> tuple[Header, NDArray[np.uint8]]:
        """What an encoded image says of itself, and (*output_size, 3) uint8 RGB, writable.

        Raises ImageError.
        """
        header, picture, box = decode_reduced(data, self._enough, limits)
        return header, self._of_picture(picture, header.width, header.height, box)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB of any size -> (*output_size, 3) uint8, writable.

        For pixels that are in no file: those of a JPEG, decoded whole, give other ones than
        `of_file` where a `reducing_gap` is set. Raises InvalidInputError for another shape or
        dtype.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InvalidInputError(
                f"image has dtype {image.dtype} and shape {image.shape}; "
                "uint8 of shape (height, width, 3) is needed, as visionloop.images.decode gives it",
                field="image",
            )
        picture = Image.fromarray(np.ascontiguousarray(image))
        return self._of_picture(picture, *picture.size, (0.0, 0.0, *picture.size))

    def _of_picture(
        self, picture: Image.Image, width: int, height: int, box: Box
    ) -> NDArray[np.uint8]:
        """Of an RGB picture whose `box` shows an image of `width` x `height` pixels."""
        steps = self.steps
        if (first := self._reducing_step) is not None:
            target = first.placement(width, height)
            picture = _resized(
                picture,
                target.width,
                target.height,
                first.interpolation,
                box,
                self.reducing_gap,
            )
            steps = steps[1:]
        for step in steps:
            picture = step.apply(picture)
        return np.array(picture)

    @property
    def _reducing_step(self) -> Resize | ResizeShorterSide | None:
        """The first step, where the image may be reduced before it."""
        first = self.steps[0]
        if self.reducing_gap is None or isinstance(first, CenterCrop):
            return None
        return None if first.interpolation == "nearest" else first

    def _enough(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which an image of this size may be reduced."""
        first, gap = self._reducing_step, self.reducing_gap
        if first is None or gap is None:
            return width, height
        target = first.placement(width, height)
        return math.ceil(target.width * gap), math.ceil(target.height * gap)

    def to_source(
        self, x: float, y: float, source_width: int, source_height: int
    ) -> tuple[float, float]:
        """From the output's coordinates to the source image's, both in pixels.

        A point in the black that center_crop added lies outside of the source image.
        """
        return self.placement(source_width, source_height).to_source(x, y)


def eval_preprocessing(
    size: int,
    crop_fraction: float,
    interpolation: Interpolation,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    squash: bool = False,
    reducing_gap: float | None = None,
) -> Preprocessing:
    """The evaluation transform that a pretrained backbone came with.

    The shorter side is resized to floor(size / crop_fraction), as timm does, then the middle
    `size` x `size` is cut out. With `squash` both sides are resized to that length instead, so the
    whole image is seen (all of it when crop_fraction is 1) but its aspect ratio is lost.
    """
    if not 0.0 < crop_fraction <= 1.0:
        raise InvalidInputError(
            f"crop_fraction is {crop_fraction}; it must be above 0 and at most 1",
            field="crop_fraction",
        )
    # The tiny addition undoes the rounding of fractions such as 224 / 0.875.
    scaled = math.floor(size / crop_fraction + 1e-6)
    resize: Resize | ResizeShorterSide
    if squash:
        resize = Resize(height=scaled, width=scaled, interpolation=interpolation)
    else:
        resize = ResizeShorterSide(size=scaled, interpolation=interpolation)
    steps: list[Step] = [resize]
    if scaled != size or not squash:
        steps.append(CenterCrop(height=size, width=size))
    return Preprocessing(
        steps=steps,
        mean=_channels(mean, "mean"),
        std=_channels(std, "std"),
        reducing_gap=reducing_gap,
    )


def _resized(
    image: Image.Image,
    width: int,
    height: int,
    how: Interpolation,
    box: Box | None = None,
    reducing_gap: float | None = None,
) -> Image.Image:
    """`box` is the part that is taken, in the image's pixels; None: all of it."""
    if image.size == (width, height) and box in (None, (0, 0, width, height)):
        return image
    return image.resize((width, height), _RESAMPLING[how], box, reducing_gap)


def _crop_offset(source: int, cropped: int) -> int:
    """The first source pixel inside the crop; negative where black is added."""
    if source >= cropped:
        return round((source - cropped) / 2)
    return -((cropped - source) // 2)


def _channels(values: Sequence[float], field: str) -> tuple[float, float, float]:
    if len(values) != 3:
        raise InvalidInputError(
            f"{field} has {len(values)} values; three are needed, for red, green and blue",
            field=field,
        )
    red, green, blue = values
    return float(red), float(green), float(blue)
