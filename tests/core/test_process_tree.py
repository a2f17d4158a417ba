"""The tests' own view of processes, where threads come and go while it looks."""

import subprocess
import sys

from tests.support.process_tree import children, is_alive

BUSY = """
import subprocess, sys, threading
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
while True:
    threads = [threading.Thread(target=lambda: None) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_end_meanwhile_do_not_hide_the_children() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        child = int(busy.stdout.readline())
        try:
            for _ in range(2000):
                assert set(children(busy.pid)) <= {child}
            assert is_alive(child)
        finally:
            busy.kill()
            subprocess.run(["kill", str(child)], check=True)
