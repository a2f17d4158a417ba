"""Who may call what: bearer tokens with scopes, and the one table of what each RPC needs.

    - name: line-3                  # in the log; a second entry of this name helps to change tokens
      sha256: 9f86d081884c7d65…     # printf %s "$TOKEN" | sha256sum
      scopes: [infer, feedback]
    - name: ops
      token: a-secret-of-16-or-more # the token itself also does
      scopes: [metadata, admin]

The file is re-read within a second of a change; a broken one leaves the tokens before in force and
is logged. Tokens are compared by their digests, so the time that a look-up takes says nothing about
them. Without a file everybody who reaches the server may do everything but what needs `admin`,
which is given to this machine alone (a server on loopback). A check costs 0.1 us without tokens and
1 us with them.
"""

import hashlib
import logging
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeAlias

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from visionloop.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from visionloop.record import Record, Sha256

log = logging.getLogger(__name__)

Scope: TypeAlias = Literal["infer", "feedback", "metadata", "admin"]
Scopes: TypeAlias = frozenset[str]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

OPEN: Scopes = frozenset()
INFER: Scopes = frozenset({"infer"})
# Who infers may also ask what there is to infer with, as every client of the protocol does.
DESCRIBE: Scopes = frozenset({"infer", "metadata"})
METADATA: Scopes = frozenset({"metadata"})
FEEDBACK: Scopes = frozenset({"feedback"})
ADMIN: Scopes = frozenset({"admin"})

_PROTOCOL = "/inference.GRPCInferenceService/"
_RECOGNITION = "/visionloop.v1.Recognition/"
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
# The scopes of which a caller needs one. A method that is not here needs admin.
METHODS: dict[str, Scopes] = {
    f"{_RECOGNITION}Recognize": INFER,
    f"{_RECOGNITION}RecognizeStream": INFER,
    f"{_RECOGNITION}SubmitFeedback": FEEDBACK,
    f"{_PROTOCOL}ServerLive": OPEN,
    f"{_PROTOCOL}ServerReady": OPEN,
    f"{_PROTOCOL}ModelReady": DESCRIBE,
    f"{_PROTOCOL}ServerMetadata": DESCRIBE,
    f"{_PROTOCOL}ModelMetadata": DESCRIBE,
    f"{_PROTOCOL}ModelConfig": DESCRIBE,
    f"{_PROTOCOL}ModelInfer": INFER,
    f"{_PROTOCOL}ModelStreamInfer": INFER,
    f"{_PROTOCOL}ModelStatistics": METADATA,
    f"{_PROTOCOL}RepositoryIndex": METADATA,
    f"{_PROTOCOL}RepositoryModelLoad": ADMIN,
    f"{_PROTOCOL}RepositoryModelUnload": ADMIN,
    # A way to send tensors; --shared-memory opens it as a whole.
    f"{_PROTOCOL}SystemSharedMemoryStatus": INFER,
    f"{_PROTOCOL}SystemSharedMemoryRegister": INFER,
    f"{_PROTOCOL}SystemSharedMemoryUnregister": INFER,
    f"{_PROTOCOL}CudaSharedMemoryStatus": INFER,
    f"{_PROTOCOL}CudaSharedMemoryRegister": INFER,
    f"{_PROTOCOL}CudaSharedMemoryUnregister": INFER,
    # They read and change settings in one call.
    f"{_PROTOCOL}TraceSetting": ADMIN,
    f"{_PROTOCOL}LogSettings": ADMIN,
    f"{_HEALTH}Check": OPEN,
    f"{_HEALTH}Watch": OPEN,
    f"{_HEALTH}List": OPEN,
    _REFLECTION.format("v1"): OPEN,
    _REFLECTION.format("v1alpha"): OPEN,
}

LOOK_EVERY = 1.0  # seconds between looks at the tokens' file
LEAST_TOKEN = 16  # characters; shorter ones can be guessed
MOST_BYTES = 2**20  # of the file
NOBODY = ""
# Who calls, for whoever answers: set by `Gate.check` in the task of the call.
CALLER: ContextVar[str] = ContextVar("caller", default=NOBODY)


class TokenEntry(Record):
    """One entry of the file, as it is written."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    sha256: Sha256 | None = None
    token: Annotated[str, Field(min_length=LEAST_TOKEN, pattern=r"^[!-~]+$")] | None = None
    scopes: Annotated[list[Scope], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_of_both(self) -> "TokenEntry":
        if (self.sha256 is None) == (self.token is None):
            raise ValueError("give either sha256 or token")
        return self

    @property
    def digest(self) -> bytes:
        """The sha256 of the token."""
        if self.token is not None:
            return hashlib.sha256(self.token.encode()).digest()
        return bytes.fromhex(self.sha256 or "")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token stands for."""

    name: str
    scopes: Scopes


class Gate:
    """Asked once per RPC, before its handler. Use it from one thread, the event loop's."""

    def __init__(self, tokens: Path | None, *, loopback: bool) -> None:
        """Raises ConfigurationError for a file of tokens that cannot be used."""
        self._path = tokens
        self._loopback = loopback
        self._stamp = _stamp(tokens)
        self._callers = {} if tokens is None else read_tokens(tokens)
        self._next_look = time.monotonic() + LOOK_EVERY

    def check(self, method: str, metadata: Metadata) -> str:
        """The caller's name, "" where nobody needs one. `method` is "/package.Service/Name".

        Raises UnauthenticatedError and PermissionDeniedError in words for the caller.
        """
        needed = METHODS.get(method, ADMIN)
        if self._path is None:
            if needed is ADMIN and not self._loopback:
                raise _no_admin(method)
            return NOBODY
        if needed is OPEN:
            return NOBODY
        if time.monotonic() >= self._next_look:
            self._renew(self._path)
        caller = self._caller(metadata)
        if needed.isdisjoint(caller.scopes):
            raise _no_scope(method, needed, caller)
        CALLER.set(caller.name)
        return caller.name

    def _caller(self, metadata: Metadata) -> Caller:
        for name, value in metadata:
            if name == "authorization":
                caller = self._callers.get(hashlib.sha256(_token(value)).digest())
                if caller is None:
                    raise UnauthenticatedError(
                        "the bearer token is not one of this server's; it may have been replaced"
                    )
                return caller
        raise UnauthenticatedError(
            "this server wants a bearer token; send the metadata (or HTTP header) "
            "`authorization: Bearer TOKEN`"
        )

    def _renew(self, path: Path) -> None:
        self._next_look = time.monotonic() + LOOK_EVERY
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._callers = read_tokens(path)
        except ConfigurationError as error:
            log.error("the tokens before stay in force: %s", error)
            return
        log.info("tokens were read anew", extra={"callers": len(self._callers)})


def read_tokens(path: Path) -> dict[bytes, Caller]:
    """The callers by the digest of their token. Raises ConfigurationError, which shows no token."""
    callers: dict[bytes, Caller] = {}
    for place, entry in enumerate(_entries(path), 1):
        if entry.digest in callers:
            raise ConfigurationError(
                f"--tokens {path}: entry {place} ({entry.name}) has the token of "
                f"{callers[entry.digest].name}",
                field="tokens",
            )
        callers[entry.digest] = Caller(entry.name, frozenset(entry.scopes))
    return callers


def _entries(path: Path) -> list[TokenEntry]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            _unusable(path, f"is larger than {MOST_BYTES} bytes")
        tree: object = yaml.safe_load(text)
        return TypeAdapter(list[TokenEntry]).validate_python(tree)
    except OSError as error:
        _unusable(path, f"cannot be read: {error.strerror}")
    except yaml.YAMLError:
        _unusable(path, "is neither YAML nor JSON")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(p + 1 if isinstance(p, int) else p) for p in first["loc"])
        what = "no entry" if first["type"] == "model_type" else first["msg"]
        _unusable(path, f"is wrong at {place or 'its content'}: {what}")


def _unusable(path: Path, what: str) -> NoReturn:
    # Without the cause: its text would quote the file, and the file holds secrets.
    raise ConfigurationError(
        f"--tokens {path} {what}; it is a list of name, sha256 (or token) and scopes",
        field="tokens",
    ) from None


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _token(value: str | bytes) -> bytes:
    """The token of a header as "Bearer TOKEN"; raises UnauthenticatedError for another scheme."""
    text = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
    if text[:7].lower() != b"bearer ":
        raise UnauthenticatedError("authorization must be `Bearer TOKEN`; it is of another scheme")
    return text[7:].strip()


def _no_admin(method: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"{method[1:]} needs the scope admin, which this server cannot give to anybody: it has no "
        "--tokens, and does not listen on loopback alone"
    )


def _no_scope(method: str, needed: Scopes, caller: Caller) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"{method[1:]} needs the scope {' or '.join(sorted(needed))}; {caller.name!r} has "
        f"{', '.join(sorted(caller.scopes))}"
    )
