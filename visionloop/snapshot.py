"""The dataset snapshot: the only thing that labeling hands to training.

    datasets/<ds>/parts/<sha256>.parquet           rows; snapshots share parts
    datasets/<ds>/snapshots/<id>/labels.csv.gz     the same rows for people
    datasets/<ds>/snapshots/<id>/classes.json
    datasets/<ds>/snapshots/<id>/manifest.json     written last; without it there is no snapshot
    datasets/<ds>/refs/latest.json                 the current one, moved by compare-and-swap

Writing what a snapshot says already writes no snapshot: the id is the content's digest. Reading
one checks every part's digest and then that the rows still give the id. `read` holds all rows, a
kilobyte or so each; `write_spooled` holds one part, `stream` the bytes of one and some rows. What
the records and the id are is in `visionloop.snapshot_format` and `visionloop.snapshot_rows`.
"""

import builtins
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visionloop.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import parse_record, record_bytes
from visionloop.snapshot_content import (
    ContentCheck,
    PartFile,
    SpooledContent,
    check_content,
    spooled,
)
from visionloop.snapshot_diff import SnapshotDiff, diff_rows
from visionloop.snapshot_format import (
    DATASET_NAME_PATTERN,
    SNAPSHOT_ID_PATTERN,
    SPLITS,
    About,
    Part,
    SnapshotClass,
    SnapshotManifest,
    id_head,
    plain_policy,
    snapshot_id,
)
from visionloop.snapshot_latest import LatestPointer, LatestSnapshot
from visionloop.snapshot_rows import SnapshotBox, SnapshotRow, SnapshotShape, stream_parquet

__all__ = [
    "SPLITS",
    "About",
    "Part",
    "Snapshot",
    "SnapshotBox",
    "SnapshotClass",
    "SnapshotDiff",
    "SnapshotManifest",
    "SnapshotRepository",
    "SnapshotRow",
    "SnapshotShape",
    "SpooledContent",
    "blob_key",
    "diff",
    "snapshot_id",
    "spooled",
]

MIN_PREFIX_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified snapshot; rows in the order of their sha256."""

    manifest: SnapshotManifest
    rows: list[SnapshotRow]

    def split(self, name: str) -> list[SnapshotRow]:
        """The rows of "train", "val" or "test"."""
        if name not in SPLITS:
            raise InvalidInputError(f"split {name!r} is none of {', '.join(SPLITS)}", field="split")
        return [row for row in self.rows if row.split == name]


def blob_key(sha256: str) -> str:
    """Where the bytes of an image are stored."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidInputError(f"{sha256!r} is not a sha256 in 64 hex digits", field="sha256")
    return f"blobs/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


class SnapshotRepository:
    """The snapshots in a store. Safe to use from several threads and programs at once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def write(
        self,
        dataset: str,
        rows: Iterable[SnapshotRow],
        classes: Sequence[SnapshotClass],
        policy: dict[str, object],
        *,
        label_sequence: int,
        leak_pairs: int = 0,
        parent: str | None,
    ) -> tuple[SnapshotManifest, bool]:
        """Writes a snapshot and makes it the latest; returns its manifest and whether it is new.

        The same content has the same id, and is written once. `label_sequence` counts the label
        events it covers; latest never goes back to a lower one. Raises InvalidInputError for
        content that `check_content` refuses.
        """
        ordered = sorted(rows, key=lambda row: row.sha256)
        _check_dataset(dataset)
        with spooled(classes) as content:
            content.take(ordered)
            about = About(label_sequence=label_sequence, leak_pairs=leak_pairs, parent=parent)
            return self._write(dataset, content, classes, policy, about)

    def write_spooled(
        self, dataset: str, content: SpooledContent, policy: dict[str, object], about: About
    ) -> tuple[SnapshotManifest, bool]:
        """As `write`, for any number of rows, taken before; of the classes those in use."""
        _check_dataset(dataset)
        return self._write(dataset, content, content.used_classes(), policy, about)

    def _write(
        self,
        dataset: str,
        content: SpooledContent,
        classes: Sequence[SnapshotClass],
        policy: dict[str, object],
        about: About,
    ) -> tuple[SnapshotManifest, bool]:
        if not content.parts:
            raise InvalidInputError(
                "a snapshot needs at least one row; label some images", field="rows"
            )
        policy = plain_policy(policy)
        identity = content.identity(classes, policy)
        try:
            manifest, created = self._manifest(dataset, identity), False
        except NotFoundError:
            parts = in_parallel(lambda part: self._write_part(dataset, part), content.parts)
            stated = {
                "dataset": dataset,
                "id": identity,
                "created": datetime.now(UTC),
                "classes": list(classes),
                "policy": policy,
                "parts": parts,
            }
            fields = {**stated, **content.counts, **about.model_dump()}
            manifest, created = self._commit(SnapshotManifest.model_validate(fields), content.table)
        LatestPointer(self._store, dataset).move(
            LatestSnapshot(id=identity, label_sequence=about.label_sequence)
        )
        return manifest, created

    def list(self, dataset: str) -> builtins.list[SnapshotManifest]:
        """The manifests of all snapshots, oldest first; empty when there is no such dataset."""
        ids = self.ids(dataset)
        manifests = in_parallel(lambda identity: self._manifest(dataset, identity), ids)
        return sorted(manifests, key=lambda manifest: (manifest.created, manifest.id))

    def ids(self, dataset: str) -> builtins.list[str]:
        """The ids of all snapshots, in no particular order; empty when there is no such dataset."""
        _check_dataset(dataset)
        return [*self._modified(dataset)]

    def datasets(self) -> builtins.list[str]:
        """The names of the datasets that have a snapshot, in order."""
        names = [
            name
            for name in self._store.list_folders("datasets/")
            if re.fullmatch(DATASET_NAME_PATTERN, name)
        ]
        return [name for name in names if self._modified(name)]

    def latest(self, dataset: str) -> SnapshotManifest:
        """The manifest of the current snapshot. Raises NotFoundError that says what to do.

        A writer that was killed between a manifest and the move of refs/latest.json is made good
        here: manifests that came after the last move count, when they cover more label events.
        """
        _check_dataset(dataset)
        modified = self._modified(dataset)
        if not modified:
            raise NotFoundError(
                f"dataset {dataset!r} has no snapshot yet; label some images, then: "
                f"visionloop snapshots create {dataset}"
            )
        pointer = LatestPointer(self._store, dataset).read()
        if pointer is None:
            return max((self._manifest(dataset, identity) for identity in modified), key=_order)
        current, moved = pointer
        later = [
            manifest
            for manifest in (
                self._manifest(dataset, identity)
                for identity, written in modified.items()
                if written >= moved and identity != current.id
            )
            if manifest.label_sequence > current.label_sequence
        ]
        return max(later, key=_order) if later else self._manifest(dataset, current.id)

    def read(self, dataset: str, id: str) -> Snapshot:
        """A snapshot with all its rows, verified. `id` may be "latest" or a unique start of an id.

        Raises NotFoundError, InvalidInputError for a start that several ids share, and
        CorruptError when a part is missing or altered or the rows do not give the id.
        """
        manifest = self.manifest(dataset, id)
        parts = in_parallel(lambda part: self._read_part(part, dataset), manifest.parts)
        rows = [row for part in parts for row in part]
        rows.sort(key=lambda row: row.sha256)
        try:
            check_content(rows, manifest.classes)
        except InvalidInputError as error:
            raise _corrupt(manifest, str(error)) from None
        if snapshot_id(rows, manifest.classes, manifest.policy) != manifest.id:
            raise _corrupt(manifest, "its content does not give this id: altered")
        return Snapshot(manifest, rows)

    def manifest(self, dataset: str, id: str) -> SnapshotManifest:
        """The manifest alone. `id` and errors are as in `read`."""
        return self.latest(dataset) if id == "latest" else self._resolve(dataset, id)

    def stream(self, manifest: SnapshotManifest) -> Iterator[SnapshotRow]:
        """The rows in the order of sha256, the bytes of one part in memory at a time.

        Each part is verified before its rows come, the whole after the last one: CorruptError
        may come late.
        """
        digest = hashlib.sha256(id_head(manifest.classes, manifest.policy))
        check = ContentCheck(manifest.classes)
        for part in manifest.parts:
            for row in self._stream_part(part, manifest.dataset):
                try:
                    check.take(row)
                except InvalidInputError as error:
                    raise _corrupt(manifest, str(error)) from None
                digest.update(row.canonical())
                yield row
        if f"sha256-{digest.hexdigest()}" != manifest.id:
            raise _corrupt(manifest, "its content does not give this id: altered")

    def _write_part(self, dataset: str, part: PartFile) -> Part:
        data = part.path.read_bytes()
        key = f"datasets/{dataset}/parts/{part.sha256}.parquet"
        try:
            self._store.put_if_absent(key, data)
        except ConflictError:
            # An earlier snapshot's, and the same bytes, unless the store lost some.
            if self._store.get(key).data != data:
                self._store.put(key, data)
        return Part(key=key, rows=part.rows, sha256=part.sha256)

    def _commit(self, manifest: SnapshotManifest, table: Path) -> tuple[SnapshotManifest, bool]:
        folder = _snapshot_folder(manifest.dataset, manifest.id)
        classes = json.dumps([entry.model_dump() for entry in manifest.classes], indent=2)
        self._store.upload(table, f"{folder}labels.csv.gz")
        self._store.put(f"{folder}classes.json", classes.encode() + b"\n")
        failpoint("snapshot.parts_written")
        try:
            self._store.put_if_absent(f"{folder}manifest.json", record_bytes(manifest))
        except ConflictError:
            return self._manifest(manifest.dataset, manifest.id), False  # somebody was faster
        failpoint("snapshot.manifest_written")
        return manifest, True

    def _modified(self, dataset: str) -> dict[str, datetime]:
        """The ids of the committed snapshots, and when each was."""
        folder = f"datasets/{dataset}/snapshots/"
        marker = re.compile(f"{re.escape(folder)}({SNAPSHOT_ID_PATTERN})/manifest\\.json")
        found: dict[str, datetime] = {}
        for stat in self._store.list(folder):
            if match := marker.fullmatch(stat.key):
                found[match[1]] = stat.modified
        return found

    def _manifest(self, dataset: str, identity: str) -> SnapshotManifest:
        key = f"{_snapshot_folder(dataset, identity)}manifest.json"
        try:
            data = self._store.get(key).data
        except NotFoundError:
            raise NotFoundError(f"dataset {dataset!r} has no snapshot {identity}") from None
        manifest = parse_record(SnapshotManifest, data, f"{self._store.url}/{key}")
        if (manifest.dataset, manifest.id) != (dataset, identity):
            raise CorruptError(
                f"{self._store.url}/{key} is the one of {manifest.dataset!r} {manifest.id}"
            )
        return manifest

    def _resolve(self, dataset: str, start: str) -> SnapshotManifest:
        _check_dataset(dataset)
        if re.fullmatch(SNAPSHOT_ID_PATTERN, start):
            return self._manifest(dataset, start)
        digits = start.removeprefix("sha256-")
        if not re.fullmatch(f"[0-9a-f]{{{MIN_PREFIX_DIGITS},64}}", digits):
            raise InvalidInputError(
                f"snapshot {start!r} is neither latest nor an id nor the first {MIN_PREFIX_DIGITS} "
                "or more digits of one",
                field="snapshot",
            )
        found = [name for name in self._modified(dataset) if name.startswith(f"sha256-{digits}")]
        if len(found) > 1:
            raise InvalidInputError(
                f"{len(found)} snapshots of {dataset!r} start with {start}; give more digits",
                field="snapshot",
            )
        if not found:
            raise NotFoundError(
                f"dataset {dataset!r} has no snapshot {start}; see: visionloop snapshots list"
            )
        return self._manifest(dataset, found[0])

    def _read_part(self, part: Part, dataset: str) -> builtins.list[SnapshotRow]:
        return [*self._stream_part(part, dataset)]

    def _stream_part(self, part: Part, dataset: str) -> Iterator[SnapshotRow]:
        folder = f"datasets/{dataset}/parts/"
        if part.key != f"{folder}{part.sha256}.parquet":
            raise CorruptError(f"part {part.key!r} is not {folder}{part.sha256}.parquet")
        try:
            data = self._store.get(part.key).data
        except NotFoundError:
            raise CorruptError(f"{self._store.url}/{part.key} is missing") from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise CorruptError(f"{self._store.url}/{part.key} was altered: its digest is another")
        rows = 0
        for row in stream_parquet(data, part.key):
            rows += 1
            yield row
        if rows != part.rows:
            raise CorruptError(f"{part.key} has {rows} rows, the manifest says {part.rows}")


def diff(a: Snapshot, b: Snapshot) -> SnapshotDiff:
    """What changed from `a` to `b`."""
    return diff_rows(a.rows, b.rows)


def _corrupt(manifest: SnapshotManifest, what: str) -> CorruptError:
    return CorruptError(f"snapshot {manifest.id} of {manifest.dataset!r}: {what}")


def _order(manifest: SnapshotManifest) -> tuple[int, datetime]:
    return manifest.label_sequence, manifest.created


def _check_dataset(dataset: str) -> None:
    if not re.fullmatch(DATASET_NAME_PATTERN, dataset):
        raise InvalidInputError(
            f"dataset name {dataset!r} must be 1 to 63 of a-z, 0-9, - and _, and begin with a "
            "letter or digit",
            field="dataset",
        )


def _snapshot_folder(dataset: str, identity: str) -> str:
    return f"datasets/{dataset}/snapshots/{identity}/"
