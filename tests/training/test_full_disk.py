"""A disk that fills in a run: without its cache the run goes on; without store or TMPDIR it ends
with one sentence, trusts nothing half-written, and goes on by the same command when there is room.
"""

import os
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.small_disk import FULL, SmallDisk, small_disk
from support.training_site import FIRST, PROBE, Site, make_site

from visionloop.errors import DiskFullError
from visionloop_training import cache, pipeline, preflight
from visionloop_training.app import main
from visionloop_training.cache import ArrayCache
from visionloop_training.checkpoint import Checkpoints
from visionloop_training.fit_state import Epoch
from visionloop_training.watch import Curves, Watch

SHA = "ab" * 32
ARRAY = np.arange(50_000, dtype=np.float32)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


class TestCache:
    def test_what_the_disk_does_not_take_stays_in_memory(
        self, disk: SmallDisk, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept = ArrayCache(disk.folder, "pixels", "key")
        kept.put(SHA, ARRAY)
        disk.fill()
        kept.put(SHA, -ARRAY, 1)
        kept.put(SHA, ARRAY + 1, 2)
        found = [kept.get(SHA, number) for number in range(3)]
        for array, expected in zip(found, (ARRAY, -ARRAY, ARRAY + 1), strict=True):
            assert np.array_equal(array, expected)
        assert [kept.has(SHA, number) for number in range(4)] == [True, True, True, False]
        [warning] = caplog.messages
        assert "200.1 kB wanted" in warning
        assert "by --cache; until then features stay in memory" in warning
        disk.empty()
        kept.put(SHA, ARRAY, 3)
        again = ArrayCache(disk.folder, "pixels", "key")
        assert [again.has(SHA, number) for number in range(4)] == [True, False, False, True]
        assert len([path for path in kept.folder.rglob("*") if path.is_file()]) == 2

    def test_memory_has_a_limit_and_others_cannot_read_it(
        self, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache, "MEMORY_BYTES", ARRAY.nbytes)
        disk.fill()
        kept = ArrayCache(disk.folder, "pixels", "key")
        kept.put(SHA, ARRAY)
        with pytest.raises(DiskFullError, match=f"{FULL}.*by --cache"):
            kept.put(SHA, ARRAY, 1)
        with pytest.raises(DiskFullError, match=f"{FULL}.*by --cache"):
            ArrayCache(disk.folder, "pixels", "key", shared=True).put(SHA, ARRAY)

    def test_what_nobody_used_for_a_day_makes_room(self, disk: SmallDisk) -> None:
        keys = [ArrayCache(disk.folder, "activations", name) for name in ("old", "older", "new")]
        for kept, hours in zip(keys, (30, 40, 1), strict=True):
            kept.put(SHA, ARRAY)
            seconds = time.time() - 3600 * hours
            os.utime(kept.folder, (seconds, seconds))
        now = ArrayCache(disk.folder, "pixels", "now")
        disk.fill()
        now.put(SHA, ARRAY)
        there = [kept.has(SHA) for kept in keys]
        if disk.mounted:
            assert there == [True, False, True]
            assert ArrayCache(disk.folder, "pixels", "now").has(SHA)
        else:  # a limit stays what it is, whatever is removed
            assert there == [False, False, True]


def flags(site: Site, *more: str) -> list[str]:
    settings = [part for setting in PROBE for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader"]
    return [*where, "--cache", str(site.cache), *settings, *more]


def filled_at(patch: pytest.MonkeyPatch, disk: SmallDisk, stages: dict[str, bool]) -> None:
    """From each of the stages on the disk is full, or has room again."""
    begun = Watch.stage

    def stage(watch: Watch, name: str) -> None:
        begun(watch, name)
        if name in stages:
            disk.empty()
            if stages[name]:
                disk.fill()

    patch.setattr(Watch, "stage", stage)


@pytest.fixture
def on_disk(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Store, cache and TMPDIR on one small disk, which the preflight takes for large enough."""
    monkeypatch.setattr(preflight, "_MIB", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder / "tmp"))
    (disk.folder / "tmp").mkdir()
    site = make_site(disk.folder)
    site.write(FIRST)
    return site


def test_a_run_that_finds_no_room_is_taken_up_again(
    on_disk: Site,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Full while it fits, which costs only the cache; then in its export; then at the
    promotion, which is all that is left to the next run."""
    with monkeypatch.context() as patch:
        filled_at(patch, disk, {"fit": True, "calibrate": False, "export": True})
        code = main(flags(on_disk))
        disk.empty()
    one_sentence(code, capsys, str(disk.folder / "tmp"), "by TMPDIR")
    assert "features stay in memory" in caplog.text
    assert not list((on_disk.cache / "activations").rglob("*.npy"))
    assert not list((on_disk.cache / "activations").rglob(".*"))
    assert on_disk.repository.versions("reader") == []
    assert not list((disk.folder / "tmp").iterdir())

    promote = pipeline.promote

    def promote_full(*arguments: object) -> object:
        disk.fill()
        return promote(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "promote", promote_full)
        code = main(flags(on_disk))
        disk.empty()
    said = "version 1 of reader is published and not yet promoted (visionloop models promote reader"
    one_sentence(code, capsys, said, "by --store")
    assert on_disk.repository.versions("reader") == [1]
    on_disk.repository.fetch("reader", 1, on_disk.folder / "fetched")
    assert on_disk.repository.aliases("reader").aliases.stable is None

    assert main(flags(on_disk)) == 0
    assert on_disk.repository.versions("reader") == [1]
    assert on_disk.repository.aliases("reader").aliases.stable == 1


@pytest.mark.long
def test_a_version_that_finds_no_room_is_not_there(
    on_disk: Site,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled_at(monkeypatch, disk, {"publish": True})
    code = main(flags(on_disk))
    disk.empty()
    one_sentence(code, capsys, str(disk.folder))
    assert on_disk.repository.versions("reader") == []
    left = {stat.key.rpartition("/")[2] for stat in on_disk.store.list("models/reader/versions/")}
    assert left <= {"claim.json", "content.json"}
    [run, *_] = on_disk.store.list_folders("models/reader/checkpoints/")
    learned = Checkpoints(on_disk.store, "reader", run, 1e6).latest()
    assert learned is not None
    assert learned.facts["over"]  # so that the next run learns nothing a second time


def one_sentence(code: int, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """What the program said, and how it ended."""
    told = capsys.readouterr()
    assert code == 69, told.err
    [line] = [text for text in told.err.splitlines() if text.startswith("visionloop-train: ")]
    for word in (*words, " free"):
        assert word in line
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_store_that_is_full_from_the_start(
    on_disk: Site, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(on_disk)
    disk.fill()
    code = main(arguments)
    disk.empty()
    one_sentence(code, capsys, "cannot write ")


def test_curves_end_and_the_run_goes_on(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorBoard's writer need not be installed: this one writes as it does, at once."""

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self._file = Path(folder, "events").open("wb", buffering=0)  # noqa: SIM115

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            self._file.write(f"{name} {value} {epoch}\n".encode() * 100)

        def flush(self) -> None:
            os.fsync(self._file.fileno())

        def close(self) -> None:
            self._file.close()

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    watch = Watch(Curves(disk.folder))
    disk.fill()
    for epoch in range(1, 4):
        watch.epoch(Epoch(epoch, 0.5, 0.25, 0.9, 1e-3, 1.0))
    watch.close()
    disk.empty()
    [warning] = caplog.messages
    assert f"--tensorboard {disk.folder} cannot be written" in warning
