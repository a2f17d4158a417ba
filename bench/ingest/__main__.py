"""Ingest beside what the machine can do, at length, and beside Label Studio.

    python -m bench.ingest [--rounds 5] [--rows 1500] [--bulk-rows 100000] [--parts rate bulk peer]

Writes build/bench/ingest.json and prints the table. Three parts:

- rate      images a second of one gRPC stream of labelled rows into the program as an operator
            starts it (SQLite, file store), for JPEGs of 20 kB and 200 kB. In every round the limit
            loop (see `limit`) runs just before; `ratio` is the median over the rounds of one by the
            other. Service, workers, sender and limit loop share all cores of the machine.
            `cpu_ratio` is CPU of an image in the limit loop by that in service and sender together.
            The rate is the sustained one: before the first round the service takes WARM_UP rows
            that do not count, because the limit loop imports everything and decodes an image before
            its clock starts, too. What they take is told (`warm_up_seconds`): the decoding
            processes are started, statements compiled, files made.
- bulk      many small images, as one gRPC stream and as an import of one archive; the memory of the
            whole service over their course.
- peer      Label Studio taking in the same 20 kB images as in `rate`.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import visionloop
from bench.ingest import bulk, label_studio, limit
from bench.ingest.limit import Limit
from bench.ingest.pictures import SIZES, unlike, write_pictures
from bench.ingest.service import Sent, Service, running
from bench.serving.figures import median, spread
from bench.serving.processes import usage
from visionloop.errors import VisionloopError

OUTPUT = Path("build/bench")
PARTS = ("rate", "bulk", "peer")
WANTED_RATIO = 0.6
WARM_UP = 256  # rows: as many as may be under way
FLAT = 1.25  # memory in the last quarter of an import over that in the second


def main() -> int:
    """Exit code 0 when every claim holds."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    OUTPUT.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="ingest-", dir=OUTPUT))
    document: dict[str, Any] = {"machine": _machine(), "options": vars(options)}
    try:
        if "rate" in options.parts:
            document["rate"] = [_rate(scratch, size, options) for size in SIZES]
        if "bulk" in options.parts:
            document["bulk"] = {
                "gRPC stream": bulk.stream(scratch, options.bulk_rows),
                "import of an archive": bulk.archive(scratch, options.bulk_rows),
            }
        if "peer" in options.parts:
            document["peer"] = _peer(scratch, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    document["verdicts"] = _verdicts(document)
    (OUTPUT / "ingest.json").write_text(json.dumps(document, indent=2) + "\n")
    for verdict in document["verdicts"]:
        print(
            f"{'holds ' if verdict['holds'] else 'FAILS '} {verdict['claim']}: {verdict['figures']}"
        )
    return 0 if all(verdict["holds"] for verdict in document["verdicts"]) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1500, help="a round, 20 kB; a quarter at 200")
    parser.add_argument("--bulk-rows", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


def _rate(scratch: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    rows = options.rows if size < 100_000 else options.rows // 4
    files = write_pictures(OUTPUT / f"pictures-{size}", size, rows)
    images = [file.read_bytes() for file in files]
    rounds = []
    with running(scratch / f"rate-{size}") as service:
        service.create_dataset("warm-up")
        warm_up = service.send("warm-up", unlike(images, WARM_UP, options.rounds))
        _check(warm_up)
        for number in range(options.rounds):
            # Its files are deleted at the very end: for a minute ext4 skips the inodes that were
            # freed, one by one, and the service's files would cost up to 0.2 ms more each.
            possible = limit.measure(scratch / f"limit-{size}-{number}", files, rows, number)
            rounds.append(
                _round(service, f"round-{number}", unlike(images, rows, number), possible)
            )
            print(_shown(size, rounds[-1]), flush=True)
    rates = [one["images_per_second"] for one in rounds]
    return {
        "bytes": round(sum(map(len, images)) / len(images)),
        "rows": rows,
        "warm_up_seconds": round(warm_up.seconds, 2),
        "images_per_second": round(median(rates), 1),
        "limit_images_per_second": round(median([one["limit"] for one in rounds]), 1),
        "ratio": round(median([one["ratio"] for one in rounds]), 3),
        "cpu_ratio": round(median([one["cpu_ratio"] for one in rounds]), 3),
        "spread": round(spread(rates), 3),
        "service_cpu_ms": round(median([one["service_cpu_ms"] for one in rounds]), 3),
        "sender_cpu_ms": round(median([one["sender_cpu_ms"] for one in rounds]), 3),
        "limit_cpu_ms": round(median([one["limit_cpu_ms"] for one in rounds]), 3),
        "rss_mb": round(max(one["rss_mb"] for one in rounds)),
        "rounds": rounds,
    }


def _round(
    service: Service, dataset: str, images: Iterator[bytes], possible: Limit
) -> dict[str, Any]:
    service.create_dataset(dataset)
    sent = service.send(dataset, images)
    _check(sent)
    rate = sent.rows / sent.seconds
    return {
        "images_per_second": round(rate, 1),
        "limit": round(possible.images_per_second, 1),
        "ratio": round(rate / possible.images_per_second, 3),
        "service_cpu_ms": round(1000 * sent.service_cpu / sent.rows, 3),
        "sender_cpu_ms": round(1000 * sent.sender_cpu / sent.rows, 3),
        "limit_cpu_ms": round(possible.cpu_ms, 3),
        "cpu_ratio": round(possible.cpu_ms / (1000 * sent.cpu / sent.rows), 3),
        "rss_mb": round(usage(service.pid).rss / 2**20),
    }


def _check(sent: Sent) -> None:
    if sent.outcomes != {"accepted": sent.rows}:
        raise RuntimeError(f"not all rows were accepted: {sent.outcomes}")


def _shown(size: int, one: dict[str, Any]) -> str:
    return (
        f"{size // 1000:4} kB  {one['images_per_second']:7.1f}/s of {one['limit']:7.1f}/s, ratio "
        f"{one['ratio']:.2f}; CPU of an image: service {one['service_cpu_ms']:.2f} ms, sender "
        f"{one['sender_cpu_ms']:.2f} ms, limit {one['limit_cpu_ms']:.2f} ms, ratio "
        f"{one['cpu_ratio']:.2f}; {one['rss_mb']} MB"
    )


def _peer(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    size = min(SIZES)
    images = [
        f.read_bytes() for f in write_pictures(OUTPUT / f"pictures-{size}", size, options.rows)
    ]
    try:
        found = label_studio.measure(OUTPUT / "venvs", scratch / "label-studio", images)
    except VisionloopError as error:
        print(f"Label Studio is left out: {error}")
        return {"skipped": str(error)}
    with running(scratch / "beside-peer") as service:
        service.create_dataset("peer")
        ours = service.send("peer", images)
    return {
        "peer": f"label-studio {found.version}",
        "images": found.images,
        "images_per_second": round(found.images / found.seconds, 1),
        "service_cpu_ms": round(1000 * found.service_cpu / found.images, 2),
        "ours_images_per_second": round(ours.rows / ours.seconds, 1),
        "ours_service_cpu_ms": round(1000 * ours.service_cpu / ours.rows, 2),
    }


def _verdicts(document: dict[str, Any]) -> list[dict[str, Any]]:
    verdicts = [
        {
            "claim": f"{one['bytes'] // 1000} kB JPEGs at {WANTED_RATIO} of the limit or more",
            "holds": one["ratio"] >= WANTED_RATIO,
            "figures": f"{one['images_per_second']}/s of {one['limit_images_per_second']}/s, "
            f"ratio {one['ratio']}",
        }
        for one in document.get("rate", [])
    ]
    verdicts += [
        {
            "claim": f"one {what} of {one['rows']:,} rows in flat memory",
            "holds": one["growth"] <= FLAT,
            "figures": f"{one['rss_mb_second_quarter']} MB in the second quarter, "
            f"{one['rss_mb_last_quarter']} MB in the last, {one['images_per_second']}/s",
        }
        for what, one in document.get("bulk", {}).items()
    ]
    peer = document.get("peer", {"skipped": ""})
    if "skipped" not in peer:
        verdicts.append(
            {
                "claim": f"faster than {peer['peer']}",
                "holds": peer["ours_images_per_second"] > peer["images_per_second"],
                "figures": f"{peer['ours_images_per_second']}/s, it {peer['images_per_second']}/s",
            }
        )
    return verdicts


def _machine() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "visionloop": visionloop.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
