"""The least that taking in images can cost: decode each, hash it, write it durably. No service.

    python -m bench.ingest.limit FOLDER COUNT SALT FILE…

Two processes for each core do that in a loop over their share of the files: while one waits for the
disk, another one computes. They decode with
`visionloop.images`; hash the bytes (SHA-256), the pixels (SHA-256, for equal pictures in other
files) and what they look like (the fingerprint, for near duplicates); and put the bytes into a
file store under their digest, synced to disk as every store must. They measure no quality, look for
no duplicates, keep no book, answer nobody.
"""

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.ingest.pictures import unlike
from visionloop.images import decode_picture
from visionloop.objectstore import open_store
from visionloop.snapshot import blob_key
from visionloop_labeling.duplicates import fingerprint_of

PROCESSES_PER_CORE = 2


@dataclass(frozen=True, slots=True)
class Limit:
    """What all cores together do, and the CPU of one image."""

    images_per_second: float
    cpu_ms: float


def measure(folder: Path, files: list[Path], count: int, salt: int) -> Limit:
    """Over `count` images."""
    processes = PROCESSES_PER_CORE * len(os.sched_getaffinity(0))
    share = count // processes
    command = [sys.executable, "-m", "bench.ingest.limit", str(folder), str(share)]
    running = [
        subprocess.Popen(
            [*command, str(salt * 1000 + number), *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        _line(process)  # everything is imported and read
    start = time.perf_counter()
    for process in running:
        _said(process, "go\n")
    cpu_seconds = sum(float(_line(process)) for process in running)
    seconds = time.perf_counter() - start
    for process in running:
        process.communicate()
    images = share * processes
    return Limit(images / seconds, 1000 * cpu_seconds / images)


def _line(process: "subprocess.Popen[str]") -> str:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("the limit loop ended early")
    return line


def _said(process: "subprocess.Popen[str]", words: str) -> None:
    if process.stdin is not None:
        process.stdin.write(words)
        process.stdin.flush()


def main() -> None:
    """One process's loop."""
    folder, count, salt, *names = sys.argv[1:]
    files = [Path(name).read_bytes() for name in names]
    store = open_store(f"file://{Path(folder).resolve()}")
    fingerprint_of(decode_picture(files[0])[1])
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    for image in unlike(files, int(count), int(salt)):
        _, picture = decode_picture(image)
        hashlib.sha256(picture.tobytes()).hexdigest()
        fingerprint_of(picture)
        store.put_if_absent(blob_key(hashlib.sha256(image).hexdigest()), image)
    print(time.process_time() - before, flush=True)


if __name__ == "__main__":
    main()
