"""Server reflection: grpcurl and its like list and call everything without .proto files.

The `inference` messages live in a descriptor pool of their own (an app may bring the same symbols
by tritonclient), so all descriptions are copied into one pool that only reflection reads. Offered
as v1 and as v1alpha: the messages on the wire are the same, and grpcio ships only the older name.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from visionloop.proto.inference import open_inference_pb2
from visionloop.proto.v1 import recognition_pb2
from visionloop_inference.open_streams import OpenStreams

DESCRIBED = (recognition_pb2, open_inference_pb2, health_pb2, reflection_pb2)
SERVICES = tuple(
    service.full_name
    for module in DESCRIBED
    for service in module.DESCRIPTOR.services_by_name.values()
)
NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def add_reflection(server: grpc.aio.Server) -> None:
    """Registers the reflection service under both its names."""
    servicer = ReflectionServicer(SERVICES, _pool(module.DESCRIPTOR for module in DESCRIBED))
    streams = OpenStreams("reflection")

    async def described(
        requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async with streams.one_more(context):
            async for answer in servicer.ServerReflectionInfo(requests, context):
                yield answer

    handler = grpc.stream_stream_rpc_method_handler(
        described,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in NAMES:
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))


def _pool(files: Iterable[Any]) -> descriptor_pool.DescriptorPool:
    """One pool with these files and what they import, imports first."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: Any) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)  # type: ignore[no-untyped-call]

    for file in files:
        add(file)
    return pool
