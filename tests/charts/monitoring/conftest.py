"""One start of the real programs for all tests of the contract."""

import contextlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.prometheus_rules import ALL_ON, rule_groups
from support.prometheus_server import Prometheus, running_prometheus
from support.running_loop import RunningLoop, running_loop, store_in
from support.training_run import WatchedRun, watched_run
from support.waiting import wait_for

# Without a least rate there is an error ratio after seconds of traffic.
AT_ONCE = {"inference": {"slo.minRps": 0}}


@dataclass
class Watched:
    """The programs after some traffic and a training run, and the Prometheus that saw it."""

    loop: RunningLoop
    prometheus: Prometheus
    run: WatchedRun
    families: dict[str, Metric] = field(default_factory=dict)  # all that /metrics told, by name


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")  # and no longer: it takes processors
def watched(tmp_path_factory: pytest.TempPathFactory, helm_program: object) -> Iterator[Watched]:
    """Takes some 20 s: a Prometheus that scrapes both services, with traffic, and a training run.

    It is the first to start, so that it misses nothing of the run; therefore ports are given.
    """
    folder = tmp_path_factory.mktemp("loop")
    groups = [group for chart in ALL_ON for group in rule_groups(chart, **AT_ONCE.get(chart, {}))]
    ports = {chart: free_port() for chart in ALL_ON}
    targets = {chart: f"127.0.0.1:{port}" for chart, port in ports.items()}
    with contextlib.ExitStack() as stack:
        prometheus = stack.enter_context(running_prometheus(folder, targets, groups))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        training = pool.submit(watched_run, store_in(folder), ports["training"], folder)
        loop = stack.enter_context(
            running_loop(folder, ports["inference"], ports["labeling-ingest"])
        )
        with loop.busy():
            run = training.result()
            agreed = re.compile(r'\nvisionloop_suggestion_agreement_total\{[^}]*agreed="yes"')
            wait_for(lambda: agreed.search(loop.labeling.get("/metrics")[1]), hint=agreed.pattern)
        found = Watched(loop, prometheus, run)
        for text in [*loop.scrape(), *run.scrapes]:
            for family in text_string_to_metric_families(text):
                found.families.setdefault(family.name, family).samples.extend(family.samples)
        yield found
