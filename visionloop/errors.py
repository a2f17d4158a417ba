"""The errors of the whole suite, each mapped once to gRPC, HTTP and an exit code.

Servers and the CLI translate by reading the class attributes; nothing else holds such a table.
Exit codes are those of BSD's sysexits.h, so that a Kubernetes Job can tell a bad configuration
(64: do not retry) from an unreachable store (69: retry).
"""

from typing import Any, ClassVar


class VisionloopError(Exception):
    """Base of all errors that users are meant to read. The message says what to do."""

    grpc_code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70

    def __reduce__(self) -> tuple[Any, ...]:
        """By its state, since not every kind can be made of its message: results with an error in
        them travel between the processes of a pool."""
        return _again, (type(self), self.args), self.__dict__

    @property
    def reason(self) -> str:
        """A stable machine-readable word for the error: the class name in snake case."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _again(kind: type[VisionloopError], args: tuple[Any, ...]) -> VisionloopError:
    return kind.__new__(kind, *args)


class InvalidInputError(VisionloopError):
    """A value from outside is wrong. `field` names it."""

    grpc_code = "INVALID_ARGUMENT"
    http_status = 400
    exit_code = 64

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ConfigurationError(InvalidInputError):
    """A flag, a configuration file or the environment is wrong."""


class ImageError(InvalidInputError):
    """Bytes that are not an image we take. `reason` is one word of `visionloop.images.Refusal`."""

    def __init__(self, message: str, *, reason: str, field: str = "image") -> None:
        super().__init__(message, field=field)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class NotFoundError(VisionloopError):
    """A model, version, dataset, snapshot, object or file that is not there."""

    grpc_code = "NOT_FOUND"
    http_status = 404
    exit_code = 66


class ConflictError(VisionloopError):
    """Somebody else was first: the value changed since it was read, or already exists."""

    grpc_code = "ABORTED"
    http_status = 409
    exit_code = 75


class CorruptError(VisionloopError):
    """Stored data that fails its digest, is torn, or is of a format version not known here."""

    grpc_code = "FAILED_PRECONDITION"
    http_status = 412
    exit_code = 65


class RefusedError(VisionloopError):
    """A rule said no: the gate, a self-test, a policy. Nothing was changed."""

    grpc_code = "FAILED_PRECONDITION"
    http_status = 412
    exit_code = 65


class UnavailableError(VisionloopError):
    """A store or a service cannot be reached, is not ready, or is draining. Try again.

    `retry_after_seconds` is a hint, where one can be given.
    """

    grpc_code = "UNAVAILABLE"
    http_status = 503
    exit_code = 69

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DiskFullError(UnavailableError):
    """A disk of ours takes no more. Make room and try again; nothing is half-written.

    `what` says which, and `setting` names the flag or variable that moves it elsewhere, if any.
    """

    def __init__(self, what: str, setting: str = "") -> None:
        elsewhere = f", or name another place by {setting}" if setting else ""
        super().__init__(f"{what}; make room there{elsewhere}")
        self.what = what
        self.setting = setting


class OverloadedError(VisionloopError):
    """The queue is full or the answer would come too late. `retry_after_seconds` is a hint."""

    grpc_code = "RESOURCE_EXHAUSTED"
    http_status = 429
    exit_code = 69

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(VisionloopError):
    """The caller's deadline passed before the answer was there."""

    grpc_code = "DEADLINE_EXCEEDED"
    http_status = 504
    exit_code = 69


class UnauthenticatedError(VisionloopError):
    """No credentials, or wrong ones."""

    grpc_code = "UNAUTHENTICATED"
    http_status = 401
    exit_code = 77


class PermissionDeniedError(VisionloopError):
    """Known caller, missing right."""

    grpc_code = "PERMISSION_DENIED"
    http_status = 403
    exit_code = 77


class UnimplementedError(VisionloopError):
    """Not offered by this program."""

    grpc_code = "UNIMPLEMENTED"
    http_status = 501
    exit_code = 64


def error_for_grpc_code(code: str, message: str) -> VisionloopError:
    """The error that a client raises for a gRPC status; `code` is its name, as NOT_FOUND."""
    kinds: dict[str, type[VisionloopError]] = {
        kind.grpc_code: kind
        for kind in (
            InvalidInputError,
            NotFoundError,
            ConflictError,
            RefusedError,
            UnavailableError,
            OverloadedError,
            DeadlineExceededError,
            UnauthenticatedError,
            PermissionDeniedError,
            UnimplementedError,
        )
    }
    return kinds.get(code, VisionloopError)(message)
