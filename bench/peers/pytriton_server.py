"""PyTriton: Triton's C++ front and batcher, the graph in this process by shared memory.

Its dynamic batcher has no delay, as Triton's documentation advises to begin with.
"""

import numpy as np
from graph import DELAY_MS, DTYPE, INPUT, MAX_BATCH, NAME, OUTPUT, OUTPUTS, PORT, SHAPE, Graph
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

graph = Graph()


@batch
def infer(x: np.ndarray) -> dict[str, np.ndarray]:
    """One batch that Triton put together."""
    return {OUTPUT: graph(x)}


config = TritonConfig(
    allow_http=False,
    allow_metrics=False,
    grpc_address="127.0.0.1",
    grpc_port=PORT,
)
security = TritonSecurityConfig(access_token="bench")  # noqa: S106 — of a server on loopback
with Triton(config=config, security_config=security) as triton:
    triton.bind(
        model_name=NAME,
        infer_func=infer,
        inputs=[Tensor(name=INPUT, dtype=DTYPE, shape=tuple(SHAPE))],
        outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(OUTPUTS,))],
        config=ModelConfig(
            max_batch_size=MAX_BATCH,
            batcher=DynamicBatcher(max_queue_delay_microseconds=int(1000 * DELAY_MS)),
        ),
        strict=False,
    )
    triton.serve()
