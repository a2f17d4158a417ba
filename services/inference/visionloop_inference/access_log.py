"""One line per request for operators: who asked what, how it ended, how long it took.

`--access-log 0.01` keeps one of a hundred; what failed is kept always, at most 10 lines a second,
so that a flood of bad requests is no flood of the log (the next line says how many were left out).
Contents, tokens and texts of callers beyond a name's length are never written. A request that is
not kept costs 0.1 us, one that is kept about 30 us. ModelInfer hands its messages over as bytes: of
the request all but the raw contents is parsed for a line, of the answer its first two fields.
"""

import logging
from typing import Any
from urllib.parse import unquote

from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.telemetry.request_lines import RequestLines, short
from visionloop_inference.raw_contents import parse_header, take_apart
from visionloop_inference.recognize_request import Asked

log = logging.getLogger(__name__)

OK = "OK"
# Who asked, said by our own HTTP port when it hands a request on; believed of a Unix socket only.
PEER_KEY = "visionloop-peer"


class AccessLog:
    """`wants` is asked for every request, `write` called when it said yes."""

    def __init__(self, share: float) -> None:
        self._lines = RequestLines(share)

    def wants(self, code: str) -> bool:
        """Whether a request that ended with this status (its gRPC name) is kept."""
        return self._lines.wants(failed=code != OK)

    def write(
        self,
        method: str,
        code: str,
        seconds: float,
        *,
        peer: str,
        caller: str = "",
        request: Any = None,
        response: Any = None,
    ) -> None:
        """One line. `peer` is what `peer_of` said; `request` the message, what was read of a
        RecognizeRequest, the bytes of a ModelInferRequest, or None for a stream; `response` the
        message, the bytes of a ModelInferResponse, or None where there was none."""
        facts: dict[str, object] = {
            "method": method.lstrip("/"),
            "code": code,
            "seconds": round(seconds, 6),
            "peer": peer,
        }
        if request is not None:
            facts["bytes"], request = _taken_apart(request)
            if (rows := _rows(request)) is not None:
                facts["rows"] = rows
        if isinstance(response, bytes):
            response = _beginning(response)
        known = {
            "model": _model(request, response),
            "version": _version(response),
            "caller": short(caller),
        }
        facts |= {name: value for name, value in known.items() if value}
        log.info("request", extra=facts | self._lines.left_out())


def _taken_apart(request: Any) -> tuple[int, Any]:
    """A request's bytes, and it as a message without what is large; None for what is none."""
    if isinstance(request, Asked):
        return request.size, request.message
    if isinstance(request, bytes):
        return len(request), _header(request)
    return request.ByteSize(), request


def _header(request: bytes) -> pb.ModelInferRequest | None:
    """All but the tensors' bytes; None for what is no ModelInferRequest."""
    try:
        return parse_header(take_apart(request).header)
    except InvalidInputError:
        return None


def _beginning(answer: bytes) -> pb.ModelInferResponse:
    """Model and version; our answers begin with them, each of fewer than 128 bytes."""
    stop = 0
    for tag in (1 << 3 | 2, 2 << 3 | 2):
        if len(answer) > stop + 1 and answer[stop] == tag:
            stop += 2 + answer[stop + 1]
    return pb.ModelInferResponse.FromString(answer[:stop])


def _rows(request: Any) -> int | None:
    """Images of a Recognize; the first dimension of an inference's first input."""
    images = getattr(request, "images", None)
    if images is not None:
        return len(images)
    inputs = getattr(request, "inputs", None)
    if inputs and inputs[0].shape:
        return int(inputs[0].shape[0])
    return None


def _model(request: Any, response: Any) -> str:
    for message in (response, request):
        for field in ("model", "model_name"):
            value = getattr(message, field, "")
            if isinstance(value, str) and value:
                return short(value)
    return ""


def _version(response: Any) -> str:
    """The version that answered."""
    value = getattr(response, "version", None) or getattr(response, "model_version", None)
    return short(str(value)) if isinstance(value, str | int) else ""


def peer_of(context: Any) -> str:
    """Who is at the other end.

    To be asked while the call is there: of one that has ended grpc.aio reads freed memory. The end
    of a stream that its caller left runs that late.
    """
    peer = str(context.peer())
    if peer.startswith("unix:"):
        for name, value in context.invocation_metadata() or ():
            if name == PEER_KEY:
                return f"http:{short(str(value))}"
    return unquote(peer)  # gRPC writes ipv6:[::1]:80 as ipv6:%5B::1%5D:80
