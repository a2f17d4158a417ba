"""Many small images, once as one gRPC stream and once as an import of one archive.

The pace, and the memory of the whole service over their course.
"""

import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from bench.ingest.pictures import tiny
from bench.ingest.service import Service, running
from bench.serving.figures import median
from bench.serving.processes import usage

_SAMPLE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.5


def stream(scratch: Path, rows: int) -> dict[str, Any]:
    """One stream of labelled rows."""
    with running(scratch / "stream") as service, _sampled(service) as samples:
        service.create_dataset("bulk")
        sent = service.send("bulk", (tiny(number) for number in range(rows)))
    return _described(sent.rows, sent.outcomes.get("accepted", 0), sent.seconds, samples)


def archive(scratch: Path, rows: int) -> dict[str, Any]:
    """One ZIP with a folder per class, sent once and worked through by the service."""
    path = scratch / "archive.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(rows):
            packed.writestr(f"class {number % 10}/{number}.jpg", tiny(number))
    with running(scratch / "archive") as service, _sampled(service) as samples:
        service.create_dataset("bulk")
        began = time.perf_counter()
        job = _import(service, path)
        seconds = time.perf_counter() - began
    return _described(job["rows"], job["counts"]["accepted"], seconds, samples)


def _import(service: Service, path: Path) -> dict[str, Any]:
    """The job, once it has ended."""
    address = f"http://{service.http}"
    with httpx.Client(base_url=address, timeout=600) as http, path.open("rb") as file:
        answer = http.post(
            "/v1/datasets/bulk/imports",
            files={"kind": (None, "archive"), "file": ("bulk.zip", file)},
        )
        answer.raise_for_status()
        job: dict[str, Any] = answer.json()
        while job["state"] in ("queued", "running"):
            time.sleep(_POLL_SECONDS)
            job = http.get(f"/v1/datasets/bulk/imports/{job['id']}").json()
    if job["state"] != "done":
        raise RuntimeError(f"the import ended as {job['state']}: {job['message']}")
    return job


@contextmanager
def _sampled(service: Service) -> Iterator[list[int]]:
    """The resident bytes of service and workers each second (shared pages counted for each)."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            samples.append(usage(service.pid).rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()


def _described(rows: int, accepted: int, seconds: float, samples: list[int]) -> dict[str, Any]:
    if accepted != rows:
        raise RuntimeError(f"{accepted} of {rows} rows were accepted")
    quarter = max(1, len(samples) // 4)
    early, late = median(samples[quarter : 2 * quarter] or samples), median(samples[-quarter:])
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "images_per_second": round(rows / seconds, 1),
        "rss_mb_second_quarter": round(early / 2**20),
        "rss_mb_last_quarter": round(late / 2**20),
        "growth": round(late / early, 3),
        "rss_mb": [round(value / 2**20) for value in samples[:: max(1, len(samples) // 100)]],
    }
