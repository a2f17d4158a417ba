"""What a backup keeps, forgets and refuses; the whole of it is in test_backup.py."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    UnavailableError,
)
from visionloop.objectstore import ObjectStore, StoredObject, open_store
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import backup, backup_command, backup_report, dump_header, object_copies
from visionloop_labeling.backup_report import BackupReport

DUMP = b"PGDMP of a test"
IMAGE = hashlib.sha256(b"an image").hexdigest()
NOON = datetime(2020, 11, 30, 12, tzinfo=UTC)  # before any run that begins now


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    made = open_store(f"file://{tmp_path / 'store'}")
    made.put("models/cells/aliases.json", b"{}")
    made.put("models/cells/versions/1/model.onnx", b"graph")
    made.put("models/cells/checkpoints/run/1", b"made anew")
    made.put("inbox/feedback/one", b"a correction")
    made.put(blob_key(IMAGE), b"an image")
    return made


@pytest.fixture
def target(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'target'}")


def keys(store: ObjectStore, folder: str = "") -> set[str]:
    return {one.key for one in store.list(folder)}


def a_day(store: ObjectStore, target: ObjectStore, day: str, folder: Path) -> backup.CompleteDay:
    """A complete run."""
    names = backup.copy_names(store, target, day)
    dump = folder / "labels.dump"
    dump.write_bytes(DUMP + day.encode())
    size, sha256 = backup.keep_dump(target, day, dump)
    copied = backup.copy_objects(store, target)
    done = backup.CompleteDay(
        day=day, names=names, dump_bytes=size, dump_sha256=sha256,
        copied=copied.objects, copied_bytes=copied.bytes,
    )  # fmt: skip
    backup.complete(target, done)
    return done


def days(count: int) -> list[str]:
    return [backup.day_of(NOON + timedelta(days=one)) for one in range(count)]


def test_names_are_each_days_own_and_objects_are_kept_once(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    first, second = days(2)
    assert first < second
    assert (a_day(store, target, first, tmp_path).names, len(keys(target, "objects/"))) == (2, 2)
    assert "objects/models/cells/checkpoints/run/1" not in keys(target)
    store.put(blob_key(hashlib.sha256(b"another").hexdigest()), b"another")
    store.delete("inbox/feedback/one")
    again = a_day(store, target, second, tmp_path)
    assert (again.names, again.copied, again.copied_bytes) == (1, 1, len(b"another"))
    assert backup.complete_days(target) == [first, second]
    assert backup.read_day(target) == again
    assert f"days/{first}/inbox/feedback/one" in keys(target)


@pytest.mark.parametrize("damage", [b"", b"AN IMAGE", b"a longer image"])
@pytest.mark.parametrize("key", [blob_key(IMAGE), "models/cells/versions/1/model.onnx"])
def test_a_damaged_object_never_replaces_its_copy(
    store: ObjectStore, target: ObjectStore, tmp_path: Path, key: str, damage: bytes
) -> None:
    """All days share the copy: what tears an object, or a thief of keys, would take every day."""
    a_day(store, target, days(1)[0], tmp_path)
    good = target.get(f"objects/{key}").data
    os.utime(tmp_path / "target" / "objects" / key, (0, 0))  # so that the store's is newer
    store.put(key, damage)
    assert backup.copy_objects(store, target) == backup.Copied(0, 0, [key])
    assert target.get(f"objects/{key}").data == good
    store.put(key, good)  # mended
    assert backup.copy_objects(store, target) == backup.Copied(1, len(good), [])
    assert backup.copy_objects(store, target) == backup.Copied(0, 0, [])


def test_an_image_that_was_damaged_from_the_first_day_on_is_copied_when_it_is_mended(
    store: ObjectStore, target: ObjectStore
) -> None:
    store.put(blob_key(IMAGE), b"torn")
    assert backup.copy_objects(store, target).damaged == [blob_key(IMAGE)]
    store.put(blob_key(IMAGE), b"an image")
    assert backup.copy_objects(store, target) == backup.Copied(1, len(b"an image"), [])


def test_a_snapshot_that_is_cut_meanwhile_is_not_pointed_at(
    store: ObjectStore, target: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it listed before and the pointer read afterwards, nobody could read the latest one."""
    pointer = "datasets/cells/refs/latest.json"
    manifest = "datasets/cells/snapshots/{}/manifest.json"
    store.put(pointer, b"old")
    store.put(manifest.format("old"), b"{}")
    read = store.get

    def get(key: str) -> StoredObject:
        if key == pointer:
            store.put(manifest.format("new"), b"{}")
            store.put(pointer, b"new")
        return read(key)

    monkeypatch.setattr(store, "get", get)
    backup.copy_names(store, target, "d")
    assert target.get(f"days/d/{pointer}").data == b"new"
    assert f"days/d/{manifest.format('new')}" in keys(target)


def test_what_goes_away_meanwhile_is_left_out(
    store: ObjectStore, target: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list(store.list())
    store.delete("inbox/feedback/one")
    monkeypatch.setattr(
        store, "list", lambda prefix="": [o for o in listed if o.key.startswith(prefix)]
    )
    assert backup.copy_names(store, target, "d") == 1
    assert keys(target) == {"days/d/models/cells/aliases.json"}
    store.delete("models/cells/versions/1/model.onnx")  # a full disk: its version never came to be
    assert backup.copy_objects(store, target) == backup.Copied(1, len(b"an image"), [])


def test_a_run_that_did_not_end_is_no_day_and_hides_none(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    first, second = days(2)
    a_day(store, target, first, tmp_path)
    backup.copy_names(store, target, second)
    assert backup.read_day(target).day == first
    with pytest.raises(NotFoundError, match=f"the latest is {first}"):
        backup.read_day(target, second)


def test_forgetting_keeps_the_latest_complete_days_however_old(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    all_days = days(5)
    for day in all_days[:4]:
        a_day(store, target, day, tmp_path)
    backup.copy_names(store, target, all_days[4])  # failed: not counted, not removed
    objects = keys(target, "objects/")
    assert backup.forget(target, keep=2) == all_days[:2]
    assert backup.complete_days(target) == all_days[2:4]
    left = {key.split("/")[1].partition(".")[0] for key in keys(target) - objects}
    assert left == set(all_days[2:])
    assert keys(target, "objects/") == objects
    assert backup.forget(target, keep=2) == []


def test_what_is_no_dump_is_not_kept(target: ObjectStore, tmp_path: Path) -> None:
    dump = tmp_path / "labels.dump"
    for content in (b"", b"pg_dump: error: connection refused"):
        dump.write_bytes(content)
        with pytest.raises(RefusedError, match="not what pg_dump"):
            backup.keep_dump(target, "d", dump)
    assert keys(target) == set()


# By pg_dump 15.18 and 18.4 of a Postgres 15.18; the version of the archive is 1.14 and 1.16.
HEAD_15 = (
    "5047444d50010e00040801" "00ffffffff" "0030000000" "0032000000" "000f000000" "001e000000"
    "000a000000" "007e000000" "0000000000" "0001000000" "61"
    "0005000000" "31352e3138" "0005000000" "31352e3138"
)  # fmt: skip
HEAD_18 = (
    "5047444d50011000040801" "01" "0030000000" "0032000000" "000f000000" "001e000000"
    "000a000000" "007e000000" "0000000000" "0001000000" "61"
    "001e000000" "31352e3138202844656269616e2031352e31382d302b6465623132753129"
    "0004000000" "31382e34"
)  # fmt: skip


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (bytes.fromhex(HEAD_15), ("15.18", "15.18")),
        (bytes.fromhex(HEAD_18), ("15.18", "18.4")),
        (bytes.fromhex(HEAD_18)[:40], ("", "")),
        (bytes.fromhex(HEAD_18).replace(b"P\x01\x10", b"P\x01\x11"), ("", "")),
        (DUMP, ("", "")),
        (b"", ("", "")),
    ],
)
def test_the_dump_says_which_postgres_takes_it(
    tmp_path: Path, head: bytes, said: tuple[str, str]
) -> None:
    """What is not understood is not said; a newer pg_dump's backup is one all the same."""
    dump = tmp_path / "labels.dump"
    dump.write_bytes(head)
    assert dump_header.versions(dump) == said


def test_a_restore_goes_into_an_empty_store_and_checks_the_dump(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    day = a_day(store, target, days(1)[0], tmp_path)
    with pytest.raises(RefusedError, match="restore into a new prefix"):
        backup.restore(target, day, store)
    new = open_store(f"file://{tmp_path / 'new'}")
    assert backup.restore(target, day, new) == 4
    assert keys(new) == {key for key in keys(store) if "checkpoints" not in key}
    dump = tmp_path / "fetched"
    backup.fetch_dump(target, day, dump)
    assert dump.read_bytes() == DUMP + day.day.encode()
    target.put(f"databases/{day.day}.dump", b"X" * day.dump_bytes)
    with pytest.raises(CorruptError):
        backup.fetch_dump(target, day, tmp_path / "other")


def test_a_restore_that_broke_off_goes_on_where_it_was(
    store: ObjectStore, target: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = a_day(store, target, days(1)[0], tmp_path)
    new = open_store(f"file://{tmp_path / 'new'}")
    read, gotten = target.get, list[str]()

    def get(key: str) -> StoredObject:
        if key.endswith("model.onnx") and "broke" not in gotten:
            gotten.append("broke")
            raise UnavailableError("the network is away")
        gotten.append(key)
        return read(key)

    monkeypatch.setattr(target, "get", get)
    with pytest.raises(UnavailableError):
        backup.restore(target, day, new)
    assert keys(new) == {blob_key(IMAGE)}
    assert backup.restore(target, day, new) == 4
    assert keys(new) == {key for key in keys(store) if "checkpoints" not in key}
    assert gotten.count(f"objects/{blob_key(IMAGE)}") == 1


def test_a_day_that_lost_names_is_not_restored(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    """Rules of a bucket remove old objects without a word."""
    day = a_day(store, target, days(1)[0], tmp_path)
    target.delete(f"days/{day.day}/models/cells/aliases.json")
    new = open_store(f"file://{tmp_path / 'new'}")
    with pytest.raises(CorruptError, match="has 1 names, and had 2"):
        backup.restore(target, day, new)
    assert keys(new) == set()


def test_the_dump_comes_before_what_takes_hours(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    day = a_day(store, target, days(1)[0], tmp_path)
    target.put(f"databases/{day.day}.dump", b"X" * day.dump_bytes)
    new = open_store(f"file://{tmp_path / 'new'}")
    flags = [f"--target={target.url}", f"--store={new.url}", f"--dump={tmp_path / 'dump'}"]
    with pytest.raises(CorruptError):
        backup_command.run(["restore", *flags])
    assert keys(new) == set()


def test_the_address_becomes_a_service_file_that_only_its_user_reads() -> None:
    said = backup_command.service_file(
        "postgresql+psycopg://me:p%40ss@db:5433/labels?sslmode=require"
    )
    assert said.splitlines()[0] == "[visionloop]"
    assert set(said.splitlines()[1:]) == {
        "user=me", "password=p@ss", "host=db", "port=5433", "dbname=labels", "sslmode=require",
    }  # fmt: skip
    for url in (
        "sqlite:///labels.db",
        "postgresql://db/labels?no-such-word=1",
        "postgresql://a%0Ab@db/x",
    ):
        with pytest.raises(ConfigurationError, match="--database"):
            backup_command.service_file(url)


def test_begin_and_finish_are_one_run(
    store: ObjectStore, target: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, service = tmp_path / "work", tmp_path / "service"
    common = [f"--store={store.url}", f"--target={target.url}", f"--folder={work}", "--json"]
    with pytest.raises(NotFoundError, match="come before"):
        backup_command.run(["finish", *common])
    database = "--database=postgresql://me:secret@db/labels"
    begin = ["begin", *common, database, f"--service-file={service}"]
    assert backup_command.run(begin) == 0
    assert service.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    with pytest.raises(NotFoundError, match="come before"):  # pg_dump has not run
        backup_command.run(["finish", *common])
    (work / backup_command.DUMP).write_bytes(DUMP)
    assert backup_command.run(["finish", *common, "--keep=1"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["names"], done["copied"], done["forgotten"]) == (2, 2, [])
    assert backup_command.run(["list", f"--target={target.url}"]) == 0
    assert done["day"] in capsys.readouterr().out


def test_a_store_with_damaged_objects_has_its_day_and_forgets_none(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    a_day(store, target, days(1)[0], tmp_path)
    store.put(blob_key(IMAGE), b"torn")
    work = tmp_path / "work"
    common = [f"--store={store.url}", f"--target={target.url}", f"--folder={work}"]
    database = "--database=postgresql://db/labels"
    backup_command.run(["begin", *common, database, f"--service-file={tmp_path / 'service'}"])
    (work / backup_command.DUMP).write_bytes(DUMP)
    with pytest.raises(CorruptError, match=rf"1 objects .*{IMAGE}"):
        backup_command.run(["finish", *common, "--keep=1"])
    assert len(backup.complete_days(target)) == 2
    assert backup.read_day(target).damaged == 1
    assert b'"damaged": 1' in store.get(backup_report.KEY).data


def test_a_target_takes_the_backups_of_one_store(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    """Two teams with one value copied: each would restore the other's images, too."""
    backup.claim(store, target, "https://minio.production")
    backup.claim(store, target, "https://minio.production")
    other = open_store(f"file://{tmp_path / 'other'}")
    for one, server in ((other, "https://minio.production"), (store, "https://minio.staging")):
        with pytest.raises(RefusedError, match="a target of its own"):
            backup.claim(one, target, server)


def test_a_restore_takes_no_database_for_it_fills_none() -> None:
    flags = ["restore", "--dump=labels.dump", "--database=postgresql://db/labels"]
    with pytest.raises(InvalidInputError, match="--database"):
        backup_command.run(flags)


def test_a_target_within_the_store_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    flags = [f"--store={store.url}", f"--target={store.url}/backup", f"--folder={tmp_path}"]
    with pytest.raises(ConfigurationError, match="copied into itself"):
        backup_command.run(
            ["begin", *flags, "--database=postgresql://db/x", f"--service-file={tmp_path / 's'}"]
        )


def test_one_server_by_two_spellings_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example.com/")
    monkeypatch.setenv("BACKUP_AWS_ENDPOINT_URL_S3", "https://minio.example.com")
    flags = ["--store=s3://models/production", "--target=s3://models/production/backup"]
    with pytest.raises(ConfigurationError, match="copied into itself"):
        backup_command.run(["finish", *flags, f"--folder={tmp_path}"])


LARGE = 16  # bytes; in these tests objects above it go as files


@pytest.fixture
def a_few_bytes_at_a_time(
    target: ObjectStore, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 takes 5 GiB in one piece, and so much memory no pod has."""
    monkeypatch.setattr(object_copies, "SMALL_BYTES", LARGE)
    for one in (store, target):
        monkeypatch.setattr(one, "put", _bounded(one.put))
        monkeypatch.setattr(one, "get", _bounded(one.get))


def _bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*arguments: Any) -> Any:
        result = call(*arguments)
        for data in (*arguments[1:], getattr(result, "data", b"")):
            assert len(data) <= LARGE, "it is large"
        return result

    return bounded


@pytest.mark.usefixtures("a_few_bytes_at_a_time")
def test_what_is_too_large_for_memory_goes_by_a_file(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    image, graph = b"an image of many bytes", b"a graph of many bytes"
    blob = blob_key(hashlib.sha256(image).hexdigest())
    model = "models/cells/versions/1/model.onnx"
    for number, content in enumerate((image, graph)):
        (tmp_path / str(number)).write_bytes(content)
    store.upload(tmp_path / "0", blob)
    store.upload(tmp_path / "1", model)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert backup.copy_objects(store, target, scratch).objects == 3
    assert backup.copy_objects(store, target, scratch) == backup.Copied(0, 0, [])
    for number, key in enumerate((blob, model)):  # of the same length, and newer than the copy
        (tmp_path / "torn").write_bytes(bytes(len((image, graph)[number])))
        os.utime(tmp_path / "target" / "objects" / key, (0, 0))
        store.upload(tmp_path / "torn", key)
    assert backup.copy_objects(store, target, scratch) == backup.Copied(0, 0, [blob, model])

    day = backup.CompleteDay(
        day="d", names=0, dump_bytes=1, dump_sha256="0" * 64, copied=0, copied_bytes=0
    )
    new = open_store(f"file://{tmp_path / 'new'}")
    assert backup.restore(target, day, new, scratch) == 3
    assert (new.get(blob).data, new.get(model).data) == (image, graph)
    assert list(scratch.iterdir()) == []


def test_a_restore_that_broke_off_among_the_names_goes_on(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    """They come last, so a store that has all objects and some of them is no strange one."""
    day = a_day(store, target, days(1)[0], tmp_path)
    new = open_store(f"file://{tmp_path / 'new'}")
    backup.restore(target, day, new)
    new.delete("models/cells/aliases.json")
    assert backup.restore(target, day, new) == 4
    assert new.get("models/cells/aliases.json").data == b"{}"
    new.put("inbox/feedback/another", b"of a program that works with it")
    with pytest.raises(RefusedError, match="inbox/feedback/another"):
        backup.restore(target, day, new)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_target_without_conditional_writes_takes_the_backups_of_one_store(
    refuses: bool,
    store: ObjectStore,
    target: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some servers do not hear of conditions, others answer 501 NotImplemented."""

    def put_if_absent(key: str, data: bytes) -> str:
        if refuses:
            raise ConfigurationError("the server lacks what the store needs")
        return target.put(key, data)

    monkeypatch.setattr(target, "put_if_absent", put_if_absent)
    backup.claim(store, target)
    backup.claim(store, target)
    with pytest.raises(RefusedError, match="a target of its own"):
        backup.claim(open_store(f"file://{tmp_path / 'other'}"), target)


def test_of_two_first_runs_the_later_one_is_refused(
    store: ObjectStore, target: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the target is nobody's."""
    other = open_store(f"file://{tmp_path / 'other'}")
    write = target.put_if_absent

    def late(key: str, data: bytes) -> str:
        monkeypatch.setattr(target, "put_if_absent", write)
        backup.claim(other, target)
        return write(key, data)

    monkeypatch.setattr(target, "put_if_absent", late)
    with pytest.raises(RefusedError, match="a target of its own"):
        backup.claim(store, target)


def test_a_clock_that_is_behind_makes_no_day_that_is_forgotten_first(
    store: ObjectStore, target: ObjectStore, tmp_path: Path
) -> None:
    ahead = backup.day_of(datetime.now(UTC) + timedelta(days=365))
    a_day(store, target, ahead, tmp_path)
    flags = [f"--store={store.url}", f"--target={target.url}", f"--folder={tmp_path / 'work'}"]
    begin = ["begin", *flags, "--database=postgresql://db/x", f"--service-file={tmp_path / 's'}"]
    with pytest.raises(RefusedError, match=f"remove complete/{ahead}.json"):
        backup_command.run(begin)
    assert {key.split("/")[1] for key in keys(target, "days/")} == {ahead}
    target.delete(f"complete/{ahead}.json")
    assert backup_command.run(begin) == 0


def told() -> dict[str, float]:
    """What the gauges of backups say."""
    found = values()
    return {
        name: numbers[0]
        for gauge in (metrics.BACKUP_TIMESTAMP, metrics.BACKUP_DAMAGED_OBJECTS)
        for name, numbers in [(gauge.metric.name, found[gauge.metric.name].get((), []))]
        if numbers
    }


def test_the_service_tells_what_the_latest_backup_came_to(store: ObjectStore) -> None:
    """A run with damaged objects fails; that its day is complete must be known all the same."""
    backup_report.tell(store)
    assert told() == {}
    day = backup.day_of(NOON)
    backup_report.leave(store, BackupReport(day=day, damaged=2))
    backup_report.tell(store)
    assert told() == {
        "visionloop_backup_timestamp_seconds": NOON.timestamp(),
        "visionloop_backup_damaged_objects": 2,
    }
    store.delete(backup_report.KEY)
    backup_report.tell(store)
    assert told() == {}


def test_a_day_is_complete_though_the_store_takes_no_report(
    store: ObjectStore,
    target: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(store: ObjectStore, report: BackupReport) -> None:
        raise PermissionDeniedError("this identity reads the store")

    monkeypatch.setattr(backup_report, "leave", refuse)
    flags = [f"--store={store.url}", f"--target={target.url}", f"--folder={tmp_path / 'work'}"]
    backup_command.run(
        ["begin", *flags, "--database=postgresql://db/x", f"--service-file={tmp_path / 's'}"]
    )
    (tmp_path / "work" / backup_command.DUMP).write_bytes(DUMP)
    assert backup_command.run(["finish", *flags]) == 0
    assert len(backup.complete_days(target)) == 1
