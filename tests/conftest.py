"""What all tests share: fixtures, the order of files, and the rule that CI skips nothing."""

import os
import signal

import pytest

pytest_plugins = ["support.browser", "support.helm", "support.postgres", "support.stores"]


# What the tests' own starter ignores (nohup, a shell's &) would be ignored by the programs, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Files go to the next free process in this order: the loop first, then those that compute without a
# pause spread among the others, which wait for programs, so that the processors always have work.
FIRST_FILES = ("tests/e2e/",)
BUSY_FILES = ("tests/training/", "tests/charts/test_training_pods")
LAST_BUSY = 0.85  # of the way through the others: no process shall work on a long file alone


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    busy = [name for name in files if name.startswith(BUSY_FILES)]
    others = [name for name in files if not name.startswith((*FIRST_FILES, *BUSY_FILES))]
    place = {name: LAST_BUSY * n / len(busy) for n, name in enumerate(busy)}
    place |= {name: n / len(others) for n, name in enumerate(others)}
    ordered = sorted(files, key=lambda name: place.get(name, -1.0))
    items[:] = [item for name in ordered for item in files[name]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    elsewhere = item.get_closest_marker("gpu") or item.get_closest_marker("cluster")
    must_run = os.environ.get("REQUIRE_ALL") == "1" and not elsewhere
    if report.skipped and must_run and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1, but this test was skipped: {call.excinfo}"
    return report
