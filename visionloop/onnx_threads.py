"""How the threads of a graph in onnxruntime wait for one another on CPUs."""

from typing import Final

# A network of many small operators waits at the end of each. Threads that sleep there must be
# woken: on two free cores MobileNet then takes 1.2 to 1.75 times as long. Threads that spin as
# long as onnxruntime lets them burn the cores of whoever shares them, and their own: where the
# thread that they wait for has no core, a run takes up to four times as long. Twenty microseconds
# bring all of the first and cost little of the second (`python -m bench.waiting`). Between runs
# they sleep at once.
WAITING: Final = {
    "session.force_spinning_stop": "1",
    "session.intra_op.spin_duration_us": "20",
}
