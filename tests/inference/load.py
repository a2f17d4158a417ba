"""An app under load, as a process of its own: python load.py TARGET RATE IMAGE

Sends Recognize at RATE requests per second, open loop (it does not wait for answers), with a
deadline of 10 s and no retries, until the server's health stops to be SERVING, as a load balancer
would. Then waits for its answers and prints one JSON object.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc


async def main(target: str, rate: float, image: bytes) -> None:
    async with grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        recognition = recognition_pb2_grpc.RecognitionStub(channel)
        request = pb.RecognizeRequest(images=[pb.EncodedImage(data=image)])
        failures: list[str] = []
        answered = 0

        async def one() -> None:
            nonlocal answered
            try:
                await recognition.Recognize(request, timeout=10)
                answered += 1
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")

        told_to_leave = asyncio.Event()

        async def watch() -> None:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                async for told in health.Watch(health_pb2.HealthCheckRequest()):
                    if told.status != health_pb2.HealthCheckResponse.SERVING:
                        return
            finally:
                told_to_leave.set()

        watching = asyncio.create_task(watch())
        sent: list[asyncio.Task[None]] = []
        began = time.monotonic()
        while not told_to_leave.is_set():
            sent.append(asyncio.create_task(one()))
            if len(sent) == 10:
                sys.stdout.write("under way\n")
                sys.stdout.flush()
            await asyncio.sleep(max(0.0, began + len(sent) / rate - time.monotonic()))
        await asyncio.gather(*sent, watching)
    sys.stdout.write(json.dumps({"sent": len(sent), "answered": answered, "failures": failures}))


asyncio.run(main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]).read_bytes()))
