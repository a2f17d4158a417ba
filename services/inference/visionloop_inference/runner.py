"""The runner: one process that owns the graph of one model version, and nothing else.

It lives in `link_loop`: while no row waits it sleeps, so batching costs no delay; rows that arrive
during a run are read after it. The same loop runs as a thread of the supervisor's process when
everything is to be in one.

    control channel, from the supervisor        and back
        load {folder, provider, device,         loaded {batch, row_seconds, threads, cold}, then
            threads, max_batch, tuning,         tested {difference}; or
            pad, engine_cache}                  refused {reason, for_good, problem}
        replay                                  proven {difference} or demoted {problem}
        link, log, close: see `link_loop`

`load` comes once, before any link. Nothing that a graph does ends this process but a native crash
or the loss of its GPU (`execution`), and that takes only the jobs along that were here. Price: a
run of the graph is not interrupted for anything, so everything here waits for as long as one batch
takes.
"""

import logging
from pathlib import Path

from visionloop.errors import VisionloopError
from visionloop.failpoints import failpoint
from visionloop_inference.control import Control, Message
from visionloop_inference.for_good import FOR_GOOD
from visionloop_inference.link_loop import LinkLoop
from visionloop_inference.loaded_model import LoadedModel, LoadOptions

log = logging.getLogger(__name__)


def serve(control: Control) -> None:
    """Lives until `close` or the end of the channel. Takes the channel over.

    Raises DeviceLostError.
    """
    _Runner(control).live()


class _Runner(LinkLoop):
    """The loop, whose work is the model that it was told to load."""

    def __init__(self, control: Control) -> None:
        super().__init__(control)
        self._model: LoadedModel | None = None
        self.commands |= {"load": self._load, "replay": self._replay}

    def _load(self, message: Message, _fds: list[int]) -> None:
        try:
            failpoint(f"runner.load.{Path(message['folder']).name}")
            model = LoadedModel.of_bundle(LoadOptions.of(message))
            self.say({"said": "loaded", **model.measured()})
            self.say({"said": "tested", "difference": model.test()})
        except Exception as error:
            known = isinstance(error, VisionloopError)
            if not known:
                log.exception("a fault while loading %s", message.get("folder"))
            self.say(
                {
                    "said": "refused",
                    "reason": error.reason if isinstance(error, VisionloopError) else "internal",
                    "for_good": isinstance(error, FOR_GOOD),
                    "problem": str(error) if known else f"{type(error).__name__}: {error}",
                }
            )
            return
        self.work = self._model = model

    def _replay(self, _message: Message, _fds: list[int]) -> None:
        if self._model is None:
            self.say({"said": "demoted", "problem": "no model was loaded"})
            return
        self._model.replay_rest()
