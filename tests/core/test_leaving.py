"""A program whose call hangs ends all the same; one without such a call does not wait."""

import subprocess
import sys
import time

import pytest

PROGRAM = """
import logging, sys, threading, time
from visionloop.leaving import leave
logging.basicConfig()
seconds = float(sys.argv[1])
threading.Thread(target=time.sleep, args=(seconds,), name="store_0").start()
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
leave(0.3)
print("came back")
"""


@pytest.mark.parametrize("hangs", [True, False])
def test_a_thread_that_hangs_is_left_behind(hangs: bool) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "3600" if hangs else "0.1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert time.monotonic() - began < 30  # and not an hour
    assert done.stdout == ("" if hangs else "came back\n")
    told = "calls that do not come back are left behind: store_0"
    assert (told in done.stderr) is hangs
