"""A decoder's process: `python -m visionloop_inference.decoder_process CONTROL [PAGE]`.

It decodes the images of all front ends, one after the other in the order they came, and holds
nothing: no model, no gRPC, no onnxruntime. CONTROL is the descriptor of its end of the
control channel (`link_loop` has the messages; when it is up it says `ready`), PAGE that of the
memory which its metrics would go to: what it does is counted by the front ends that asked.

An image that kills it costs the caller of that image an answer. Price: images are decoded with the
rights of the pod, as they were in a front end.
"""

import logging
import socket
import sys
from time import monotonic

from visionloop.errors import ImageError
from visionloop.failpoints import failpoint
from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing
from visionloop_inference import decoding_frames as frames
from visionloop_inference.batching import BatchQueue, Job
from visionloop_inference.control import Control
from visionloop_inference.decoding import decode
from visionloop_inference.front_end_link import FrontEndLink
from visionloop_inference.garbage import settle_garbage_collector
from visionloop_inference.link_loop import LinkLoop
from visionloop_inference.pace import Pace
from visionloop_inference.rows import Arena
from visionloop_inference.wire import Layout, Reason
from visionloop_inference.worker_process import begin

log = logging.getLogger(__name__)

FAULT = "a fault of the server while the image was decoded; its log says more"
KEPT_STEPS = 64  # preprocessings that are remembered


class Decoding:
    """The work of this process: jobs in, rows out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._layout = Layout(frames.SIGNATURE)
        self._queue = BatchQueue(1)
        self._pace = Pace(0.0, 0.0, 1)  # front ends measure what images cost
        self._steps: dict[bytes, Preprocessing] = {}

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    def link(self, end: socket.socket, arena: Arena, name: str) -> FrontEndLink:
        """A link whose images are decoded here. Images are no requests: none is counted."""
        return FrontEndLink(end, arena, self._layout, self._queue, name, counted=False)

    def publish(self, link: FrontEndLink) -> None:
        """Tells a front end how many images of others wait here."""
        link.publish(self._pace)

    def step(self) -> None:
        """One image."""
        pieces, _ = self._queue.take(monotonic())
        for piece in pieces:
            self._decode(piece.job)

    def _decode(self, job: Job) -> None:
        (image, size, _), (steps, length, _) = job.frame.inputs
        source, memory = job.source, job.source.arena.memory
        frames.begin(source.arena.header, job.frame.id)
        failpoint("decoder.decode")
        try:
            preprocessing = self._preprocessing(bytes(memory[steps : steps + length]))
            data = bytes(memory[image : image + size])
            decoded, seconds = decode(data, preprocessing, self._limits)
            source.answer(job, frames.outputs(decoded, seconds))
        except ImageError as error:
            source.refuse(job, Reason.IMAGE, f"{error.reason}\n{error}")
        except Exception:
            log.exception("a fault while decoding an image of %d bytes", size)
            source.refuse(job, Reason.FAILED, FAULT)

    def _preprocessing(self, steps: bytes) -> Preprocessing:
        found = self._steps.get(steps)
        if found is None:
            if len(self._steps) >= KEPT_STEPS:
                del self._steps[next(iter(self._steps))]
            found = self._steps[steps] = Preprocessing.model_validate_json(steps)
        return found


def serve(control: Control) -> None:
    """Lives until it is told to close, or the supervisor is gone. Takes the channel over."""
    loop = LinkLoop(control, Decoding(Limits()))
    loop.say({"said": "ready"})
    loop.live()


def main() -> int:
    """Decodes until the supervisor ends it, or ends."""
    begin("visionloop-inference-decoder", sys.argv[2] if len(sys.argv) > 2 else None)
    settle_garbage_collector()
    serve(Control.of_fd(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
