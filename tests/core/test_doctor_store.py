"""What doctor says of a store, on a folder and on the real S3 server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.faults import ALWAYS, Fault, FaultyProxy, faulty_proxy
from support.stores import BUCKET, READER_KEY, S3Server, free_ports

from visionloop.doctor.findings import Finding, Findings, Status
from visionloop.doctor.store import check_store, clock_finding
from visionloop.objectstore import open_store

READS, WRITES = ["models"], ["inbox", "blobs"]


@pytest.fixture(autouse=True)
def _attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")


def examined(url: str) -> dict[str, Finding]:
    findings = Findings()
    check_store(findings, url, reads=READS, writes=WRITES)
    return {finding.check: finding for finding in findings}


def failures(url: str) -> dict[str, tuple[int, str]]:
    return {
        check: (finding.exit_code, finding.said)
        for check, finding in examined(url).items()
        if finding.status is Status.FAILED
    }


def test_a_good_store_is_left_as_it_was(store_url: str) -> None:
    store = open_store(store_url)
    store.put("models/cells/aliases.json", b"{}")
    found = examined(store_url)
    assert [finding.status for finding in found.values()] == [Status.OK] * 5
    assert list(found) == ["store", "read models/", "write inbox/", "write blobs/", "clock"]
    assert [stat.key for stat in store.list()] == ["models/cells/aliases.json"]


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = examined(f"file://{tmp_path}/none")
    assert [finding.status for finding in found.values()] == [Status.WARNING]
    assert f"there is no store at {tmp_path}/none" in found["store"].said
    assert not (tmp_path / "none").exists()


@pytest.mark.s3
class TestS3:
    def test_a_wrong_secret(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        told = failures(s3_url)
        assert list(told) == ["store"]
        assert told["store"][0] == 77
        assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in told["store"][1]

    def test_a_bucket_that_is_not_there(self, s3_url: str) -> None:
        code, said = failures("s3://no-such-bucket/x")["store"]
        assert code == 64
        assert "bucket 'no-such-bucket' does not exist" in said

    def test_a_key_that_may_only_read(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        open_store(s3_url).put("models/m/aliases.json", b"{}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
        found = examined(s3_url)
        assert found["read models/"].status is Status.OK
        assert "clock" not in found
        for folder in WRITES:
            finding = found[f"write {folder}/"]
            assert (finding.status, finding.exit_code) == (Status.FAILED, 77)
            assert f"the rights they have on bucket '{BUCKET}'" in finding.said

    def test_nobody_answers(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
        code, said = failures(s3_url)["store"]
        assert code == 69
        assert "cannot be reached" in said


@pytest.fixture
def proxy(
    s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """Between the store and the real server."""
    with faulty_proxy(s3_server.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.mark.s3
class TestPoorServers:
    def test_without_conditional_writes(self, proxy: FaultyProxy, s3_url: str) -> None:
        proxy.faults.append(Fault("PUT", "agree", ALWAYS))
        told = failures(s3_url)
        assert list(told) == ["write inbox/", "write blobs/"]
        code, said = told["write inbox/"]
        assert code == 64
        assert "ignores put-if-absent (If-None-Match: *)" in said
        assert "Use a store with conditional writes" in said

    def test_a_clock_that_is_an_hour_off(self, proxy: FaultyProxy, s3_url: str) -> None:
        proxy.faults.append(Fault("HEAD", "late", ALWAYS))
        told = failures(s3_url)
        assert list(told) == ["clock"]
        assert "s ahead of the store's; let NTP set both clocks" in told["clock"][1]

    def test_a_policy_that_hides_a_folder(self, proxy: FaultyProxy, s3_url: str) -> None:
        """Rights differ from folder to folder, and the others are looked at all the same."""
        proxy.faults.append(Fault("GET", "refuse", ALWAYS, part="models"))
        found = examined(s3_url)
        assert found["read models/"].exit_code == 77
        assert found["write blobs/"].status is Status.OK


NOON = datetime(2026, 5, 1, 12, 0, 0, 900_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("off", "status", "side"),
    [
        (0, Status.OK, ""),
        (-0.9, Status.OK, ""),  # S3 cuts off fractions of a second
        (9, Status.OK, ""),
        (-9, Status.OK, ""),
        (11, Status.WARNING, "behind"),
        (-11, Status.WARNING, "ahead of"),
        (301, Status.FAILED, "behind"),
        (-301, Status.FAILED, "ahead of"),
    ],
)
def test_clocks(off: float, status: Status, side: str) -> None:
    written = NOON + timedelta(seconds=off)
    found = clock_finding(NOON, written, NOON + timedelta(milliseconds=20))
    assert found.status is status
    assert side in found.said
