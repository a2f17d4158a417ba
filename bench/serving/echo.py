"""The transport's limit: a bare grpc.aio server on uvloop that parses ModelInfer and does nothing.

    python -m bench.serving.echo MODEL PORT COUNTERS

It reads the same request proto as the service and answers fixed bytes of the same size, with the
metadata RPCs that perf_analyzer asks for first. No checks, no metrics, no batching, no graph. The
messages are tritonclient's, which are the reference of the protocol.
"""

import sys
from pathlib import Path

import grpc
import numpy as np
import uvloop
from tritonclient.grpc import model_config_pb2 as config
from tritonclient.grpc import service_pb2 as pb

from bench.peers.counters import Counters
from bench.serving.models import INPUT, MODELS, OUTPUT, Model

SERVICE = "inference.GRPCInferenceService"
MAX_BATCH = 64
_TYPES = {"UINT8": config.DataType.TYPE_UINT8, "FP32": config.DataType.TYPE_FP32}


def model_config(model: Model) -> pb.ModelConfigResponse:
    """What perf_analyzer must be told; tensors without the batch dimension."""
    answer = pb.ModelConfigResponse()
    answer.config.name = model.name
    answer.config.max_batch_size = MAX_BATCH
    answer.config.input.add(name=INPUT, data_type=_TYPES[model.datatype], dims=model.shape)
    answer.config.output.add(name=OUTPUT, data_type=config.DataType.TYPE_FP32, dims=[model.outputs])
    return answer


class Echo:
    """The handlers of one model."""

    def __init__(self, model: Model, counters: Counters) -> None:
        self._model = model
        self._counters = counters
        self._answer = self._fixed()

    def _fixed(self) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=self._model.name, model_version="1")
        response.outputs.add(name=OUTPUT, datatype="FP32", shape=[1, self._model.outputs])
        response.raw_output_contents.append(np.zeros(self._model.outputs, np.float32).tobytes())
        return response

    async def infer(self, request: pb.ModelInferRequest, _context: object) -> pb.ModelInferResponse:
        """Fixed bytes, whatever was sent."""
        self._counters.ran(len(request.raw_input_contents))
        return self._answer

    async def live(self, _request: object, _context: object) -> pb.ServerLiveResponse:
        """Always."""
        return pb.ServerLiveResponse(live=True)

    async def server(self, _request: object, _context: object) -> pb.ServerMetadataResponse:
        """No extensions, so that nothing else is asked for."""
        return pb.ServerMetadataResponse(name="grpc-echo", version="1")

    async def metadata(self, _request: object, _context: object) -> pb.ModelMetadataResponse:
        """The model's tensors."""
        model = self._model
        answer = pb.ModelMetadataResponse(name=model.name, versions=["1"], platform="echo")
        answer.inputs.add(name=INPUT, datatype=model.datatype, shape=[-1, *model.shape])
        answer.outputs.add(name=OUTPUT, datatype="FP32", shape=[-1, model.outputs])
        return answer

    async def config(self, _request: object, _context: object) -> pb.ModelConfigResponse:
        """The same in Triton's words."""
        return model_config(self._model)

    def handlers(self) -> grpc.GenericRpcHandler:
        """All of them, by the protocol's names."""
        table = {
            "ModelInfer": (self.infer, pb.ModelInferRequest),
            "ServerLive": (self.live, pb.ServerLiveRequest),
            "ServerMetadata": (self.server, pb.ServerMetadataRequest),
            "ModelMetadata": (self.metadata, pb.ModelMetadataRequest),
            "ModelConfig": (self.config, pb.ModelConfigRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    handler,
                    request_deserializer=message.FromString,
                    response_serializer=lambda answer: answer.SerializeToString(),
                )
                for name, (handler, message) in table.items()
            },
        )


async def serve(model: Model, port: int, counters: Counters) -> None:
    """Until it is killed."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Echo(model, counters).handlers()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(MODELS[sys.argv[1]], int(sys.argv[2]), Counters(Path(sys.argv[3]))))
