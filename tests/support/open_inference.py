"""The Open Inference servicer on a real runner, without a server: for tests of what it says.

async with served(tmp_path, runners.tiny()) as open_inference:
    answer = await open_inference.ModelInfer(request, NO_DEADLINE)
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.runners import running, tensor, tensor_bundle

from visionloop.errors import UnimplementedError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.signature import Signature
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.decoder import Decoder
from visionloop_inference.model_config import Offer
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.shared_memory import Regions

OFFER = Offer(
    max_rows=16,
    max_bytes=2**24,
    version_policy="aliases",
    instances=1,
    gpu=False,
    model_control=True,
    shared_memory=True,
)


class Context:
    """What a servicer asks of gRPC: how long the caller waits."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds


NO_DEADLINE = Context()


async def nobody(kind: str, details: dict[str, Any]) -> dict[str, Any]:
    """A supervisor that knows nothing."""
    raise UnimplementedError(f"{kind} {details}")


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    made: tuple[bytes, Signature],
    *,
    ask: Any = nobody,
    offer: Offer = OFFER,
    name: str = "small",
    **options: Any,
) -> AsyncIterator[OpenInference]:
    """A servicer that routes to one model, run by a runner in a thread."""
    bundle = tensor_bundle(folder, made, name)
    decoder = Decoder(1)
    regions = Regions()
    catalogue = Catalogue(256, 2**26)
    with running(bundle, folder, **options) as runner:
        async with runner.connected(2**25) as link:
            catalogue.version(bundle.model_dump_json().encode()).links.append(link)
            catalogue.models[name].stable = 1
            catalogue.ready = True
            yield OpenInference(catalogue, decoder, ask, offer, regions)
    regions.close()
    decoder.close()


def request(model: str = "small", **inputs: NDArray[Any]) -> pb.ModelInferRequest:
    """A raw request with these inputs."""
    made = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        sent = tensor(array)
        made.inputs.add(name=name, datatype=sent.datatype, shape=sent.shape)
        made.raw_input_contents.append(bytes(sent.data))
    return made


def outputs(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The raw outputs of numbers."""
    return {
        output.name: np.frombuffer(raw, DATATYPES[output.datatype].numpy).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
