"""MLServer, in one process without its batching, which was its fastest setting for every model here
(a worker process or adaptive batching made it slower: 234 -> 139 and 169 images/s for `pool`).

Changed in it: nothing on the way of a request. perf_analyzer asks for ModelConfig, which MLServer
does not have, so that one answer is added; its debug log is off.
"""

import asyncio
import os

import grpc
from graph import DATATYPE, INPUT, NAME, OUTPUT, OUTPUTS, PORT, SHAPE, Graph
from mlserver import MLModel, MLServer
from mlserver.codecs import NumpyCodec
from mlserver.grpc.server import GRPCServer
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor

MODEL_CONFIG = bytes.fromhex(os.environ["BENCH_MODEL_CONFIG"])


class Served(MLModel):
    """The graph as MLServer's runtime."""

    async def load(self) -> bool:
        """Once."""
        self._graph = Graph()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request's rows."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = NumpyCodec.encode_output(OUTPUT, self._graph(rows))
        return InferenceResponse(model_name=self.name, outputs=[answer])


async def model_config(_request: bytes, _context: object) -> bytes:
    """Serialised by the benchmark."""
    return MODEL_CONFIG


create_server = GRPCServer._create_server


def create_server_with_config(self: GRPCServer) -> object:
    """MLServer's own server with one method more."""
    server = create_server(self)
    handler = grpc.unary_unary_rpc_method_handler(model_config)
    (server or self._server).add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService", {"ModelConfig": handler}
            )
        ]
    )
    return server


GRPCServer._create_server = create_server_with_config


async def main() -> None:
    """Until a signal."""
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=PORT,
        http_port=0,
        metrics_port=0,
        parallel_workers=0,
        grpc_max_message_length=2**26,
    )
    model = ModelSettings(
        name=NAME,
        implementation=Served,
        parameters=ModelParameters(version="1"),
        inputs=[MetadataTensor(name=INPUT, datatype=DATATYPE, shape=[-1, *SHAPE])],
        outputs=[MetadataTensor(name=OUTPUT, datatype="FP32", shape=[-1, OUTPUTS])],
    )
    await MLServer(settings).start([model])


asyncio.run(main())
