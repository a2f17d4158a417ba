"""A real Prometheus (Debian's package) that scrapes the running programs every second."""

import contextlib
import json
import math
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from support.prometheus_rules import job, prometheus_tool
from support.running_loop import ask
from support.waiting import wait_for


class Prometheus:
    """Asked over its HTTP API."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(ask(f"{self._url}/-/ready"))
        return False

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The vector's series that are numbers: a quantile of nothing is none.

        `at` in seconds since 1970; None: now. Raises HTTPError for what is no PromQL.
        """
        asked = {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"})
        body = ask(f"{self._url}/api/v1/query", urlencode(asked).encode())
        result = json.loads(body)["data"]["result"]
        return [series for series in result if not math.isnan(float(series["value"][1]))]

    def problems_but(self, gone: str) -> list[str]:
        """Rules that cannot be evaluated, targets that cannot be scraped; one has ended."""
        groups = json.loads(ask(f"{self._url}/api/v1/rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        targets = json.loads(ask(f"{self._url}/api/v1/targets"))["data"]["activeTargets"]
        return [
            f"{rule['name']}: {rule['lastError']}" for rule in rules if rule.get("lastError")
        ] + [
            f"{target['scrapeUrl']}: {target['lastError']}"
            for target in targets
            if target["lastError"] and target["labels"]["job"] != job(gone)
        ]


@contextlib.contextmanager
def running_prometheus(
    folder: Path, targets: Mapping[str, str], groups: list[dict[str, Any]]
) -> Iterator[Prometheus]:
    """It scrapes host:port of each chart, as a PodMonitor would, and evaluates the rules."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": job(chart),
                "static_configs": [
                    {"targets": [address], "labels": {"pod": f"{chart}-0", "namespace": "vision"}}
                ],
            }
            for chart, address in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                prometheus_tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stderr=log,
        )
    try:
        made = Prometheus(address)
        wait_for(made.ready, hint=f"Prometheus; log: {folder / 'prometheus.log'}")
        yield made
    finally:
        process.terminate()
        process.wait(timeout=30)
