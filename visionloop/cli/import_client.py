"""Import jobs over HTTP, with nothing but the standard library: send a file, follow the job.

The file is sent as it is read, whatever its size.
"""

import http.client
import json
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)

_TIMEOUT: Final = 60.0  # seconds without a byte
_CHUNK: Final = 2**20
_ERRORS: Final[Mapping[int, type[VisionloopError]]] = {
    kind.http_status: kind
    for kind in (
        InvalidInputError,
        UnauthenticatedError,
        PermissionDeniedError,
        NotFoundError,
        ConflictError,
        RefusedError,
        OverloadedError,
        UnavailableError,
    )
}


class ImportClient:
    """The imports of one dataset, behind the service's HTTP address."""

    def __init__(
        self,
        url: str,
        dataset: str,
        *,
        token: str | None,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
    ) -> None:
        """`server_name` is the name in the service's certificate, where the URL has another one.

        Raises ConfigurationError for a URL that is no HTTP address."""
        self._parts = _parts(url)
        self._where = self._parts.netloc.rpartition("@")[2]  # for messages: no user, no password
        self._path = f"{self._parts.path.rstrip('/')}/v1/datasets"
        self._dataset = dataset
        self._token = token
        self._tls = tls
        self._server_name = server_name

    def create_dataset(self, task: str) -> str:
        """Makes the dataset unless it is there; returns its task, which may be another then."""
        there = {one["name"]: one["settings"]["task"] for one in self._call("GET", "")}
        if self._dataset in there:
            return str(there[self._dataset])
        body = json.dumps({"name": self._dataset, "settings": {"task": task}}).encode()
        self._call("POST", "", body=[body], headers={"Content-Type": "application/json"})
        return task

    def begin(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        file: Path | None,
        key: str,
        sent: "Sent | None" = None,
    ) -> dict[str, Any]:
        """Queues an import; the same `key` again gives the same one. `sent` is told of bytes.

        Raises InvalidInputError for a key that is not printable ASCII.
        """
        if not (key.isascii() and key.isprintable()):
            raise InvalidInputError(
                f"batch is {key!r}; the name of this import must be of printable ASCII characters",
                field="batch",
            )
        # New each time: a file that holds a boundary known before could end its own part, and say
        # what the rest of the form says.
        boundary = f"visionloop-import-{uuid.uuid4().hex}"
        fields = {"kind": kind, "parameters": json.dumps(dict(parameters))}
        head, tail = _form(boundary, fields, file)
        size = 0 if file is None else file.stat().st_size
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
            "Idempotency-Key": key,
        }
        body = _body(head, file, tail, sent or Sent())
        found: dict[str, Any] = self._call("POST", self._imports(), body=body, headers=headers)
        return found

    def show(self, key: str) -> dict[str, Any]:
        """How far an import is."""
        found: dict[str, Any] = self._call("GET", self._imports(key))
        return found

    def receipts(self, key: str, outcome: str) -> Iterator[dict[str, Any]]:
        """The receipts of this outcome, in the order of rows."""
        after: int | None = -1
        while after is not None:
            query = urlencode({"outcome": outcome, "after": after, "limit": 1000})
            page = self._call("GET", f"{self._imports(key)}/receipts?{query}")
            yield from page["receipts"]
            after = page["next"]

    def _imports(self, key: str = "") -> str:
        path = f"/{quote(self._dataset, safe='')}/imports"
        return f"{path}/{quote(key, safe='')}" if key else path

    def _call(
        self,
        method: str,
        path: str,
        body: "Iterator[bytes] | list[bytes] | None" = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        told = dict(headers or {})
        if isinstance(body, list):
            told["Content-Length"] = str(sum(map(len, body)))
        if self._token:
            told["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            # Where it breaks off here, it was refused early, and the answer may say why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._path + path, body=body, headers=told)
            answer = connection.getresponse()
            return _checked(answer.status, answer.read(), self._where)
        except ssl.SSLCertVerificationError as error:
            raise UnavailableError(
                f"the labeling-ingest service at {self._where} has a certificate that does not "
                f"prove it ({error.verify_message}); name its authority with --tls-ca, or the name "
                "that stands in it with --tls-server-name"
            ) from error
        except http.client.RemoteDisconnected as error:
            raise UnavailableError(
                f"the labeling-ingest service at {self._where} closed the connection without an "
                "answer; where it speaks TLS its address begins with https://"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"the labeling-ingest service at {self._where} cannot be reached over HTTP "
                f"({error or type(error).__name__}); name its address with --url"
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = self._tls or ssl.create_default_context()
            return _SecureConnection(host, port, context, self._server_name or host)
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)


class _SecureConnection(http.client.HTTPSConnection):
    """Expects a name in the certificate that may be another than that of the address."""

    def __init__(
        self, host: str, port: int | None, context: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(host, port, timeout=_TIMEOUT, context=context)
        self._tls = context
        self._server_name = server_name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)


class Sent:
    """Told of bytes as they go out."""

    def advance(self, count: int) -> None:
        """`count` more bytes."""


def _form(boundary: str, fields: Mapping[str, str], file: Path | None) -> tuple[bytes, bytes]:
    """What stands before and after the file's bytes."""
    lines = []
    for name, value in fields.items():
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{name}"', "", value]
    if file is not None:
        name = "".join(c if c.isprintable() and c not in '"\\' else "_" for c in file.name)
        place = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        lines += [f"--{boundary}", place, "Content-Type: application/octet-stream", "", ""]
    head = "\r\n".join(lines) if file is not None else "\r\n".join((*lines, ""))
    tail = f"\r\n--{boundary}--\r\n" if file is not None else f"--{boundary}--\r\n"
    return head.encode(), tail.encode()


def _body(head: bytes, file: Path | None, tail: bytes, sent: Sent) -> Iterator[bytes]:
    yield head
    if file is not None:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                yield chunk
                sent.advance(len(chunk))
    yield tail


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a port, only when it is looked at
        usable = False
    if not usable:
        raise ConfigurationError(
            f"--url {url!r} is not the service's HTTP address, as http://labeling:8080",
            field="url",
        )
    return parts


def _checked(status: int, body: bytes, where: str) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        if status < 300:
            raise ConfigurationError(
                f"what answers at {where} is not the labeling-ingest service: it speaks no JSON; "
                "name the service's HTTP address with --url",
                field="url",
            ) from None
        answer = {}
    if status < 300:
        return answer
    message = answer.get("message") if isinstance(answer, dict) else None
    kind = _ERRORS.get(status, InvalidInputError if status < 500 else UnavailableError)
    raise kind(message or f"the service answers {status}")
