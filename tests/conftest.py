"""What all tests share: fixtures, the order of files, and the rule that CI skips nothing."""

import os
import signal

import pytest

pytest_plugins = [
    "support.browser",
    "support.helm",
    "support.kill_places",
    "support.postgres",
    "support.stores",
]


# What the tests' own starter ignores (nohup, a shell's &) would be ignored by the programs, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Files go to the next free process in this order. Were the ones of minutes last, one process would
# work on them while the others idle; and what measures time comes when they are over.
LONG_FILES = ("tests/e2e/", "tests/training/", "tests/charts/test_training_pods")
LONG = "takes long for a second proof; `make test-kill` and CI run it"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"long: {LONG}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG_FILES))
    if "KILL_ROUNDS" not in os.environ and os.environ.get("REQUIRE_ALL") != "1":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    elsewhere = item.get_closest_marker("gpu") or item.get_closest_marker("cluster")
    must_run = os.environ.get("REQUIRE_ALL") == "1" and not elsewhere
    if report.skipped and must_run and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1, but this test was skipped: {call.excinfo}"
    return report
