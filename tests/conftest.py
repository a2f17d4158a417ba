"""What all tests share: the shared fixtures, and the rule that CI skips nothing."""

import os

import pytest

pytest_plugins = ["support.browser", "support.helm", "support.postgres", "support.stores"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    must_run = os.environ.get("REQUIRE_ALL") == "1" and not item.get_closest_marker("gpu")
    if report.skipped and must_run and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1, but this test was skipped: {call.excinfo}"
    return report
