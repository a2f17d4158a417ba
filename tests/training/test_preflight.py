"""What would end a run late is found before its first epoch, in one line."""

import pytest
from support.training_site import FIRST, PROBE, Site

from visionloop.errors import ConfigurationError, CorruptError, NotFoundError
from visionloop.snapshot import SnapshotRepository, blob_key
from visionloop_training import preflight
from visionloop_training.app import main


def test_a_run_that_can_begin_is_told_so(site: Site, capsys: pytest.CaptureFixture[str]):
    site.write(FIRST)
    settings = [part for setting in PROBE for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader"]
    cache = ["--cache", str(site.folder / "cache")]
    assert main([*where, *cache, *settings, "--check"]) == 0
    told = capsys.readouterr().out
    assert "120 of 120 images: in the store" in told
    assert "golden images: 64 of 64 wanted" in told
    assert "there is no stable version" in told
    assert told.endswith("ready to train\n")
    assert list(site.store.list("models/")) == []


def test_missing_images_are_counted(site: Site):
    site.write(FIRST)
    rows = SnapshotRepository(site.store).read("digits", "latest").rows
    for row in rows[3:6]:
        site.store.delete(blob_key(row.sha256))
    with pytest.raises(NotFoundError, match=f"3 of 120 images .*first: {rows[3].sha256}"):
        site.train(*PROBE)


def test_of_many_images_a_sample_is_asked_for(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.write(FIRST)
    monkeypatch.setattr(preflight, "LOOKED_AT", 50)
    found = site.train(*PROBE, check_only=True)
    assert "40 of 120 images: in the store" in found.checked


def test_a_full_disk_is_told_with_what_is_needed(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.write(FIRST)
    usage = preflight.shutil.disk_usage(site.folder)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(ConfigurationError, match=r"has 0\.0 GiB free, and 120 images need about"):
        site.train(*PROBE)


def test_a_damaged_stable_version_is_found_first(probed: Site):
    site = probed
    site.store.put("models/reader/versions/1/model.onnx", b"torn")
    site.write(dict.fromkeys(FIRST, 60))
    other = site.folder / "elsewhere"
    other.mkdir()
    with pytest.raises(CorruptError, match=r"model\.onnx"):
        Site(site.store, other).train(*PROBE)
    assert site.repository.versions("reader") == [1]


def test_all_failures_are_told_the_first_ends_the_run(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    site.write({"0": 5, "1": 5})
    rows = SnapshotRepository(site.store).read("digits", "latest").rows
    site.store.delete(blob_key(rows[0].sha256))
    monkeypatch.setattr(preflight, "_GOLDEN", 11)
    with pytest.raises(NotFoundError, match="1 of 10 images"):
        site.train(*PROBE)
    assert "10 images are too few to prove" in caplog.text
