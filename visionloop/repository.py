"""The model repository: finished models as numbered versions in an object store.

A version is a folder of files and, written last, its bundle.json. Until that marker is there nobody
sees the version; afterwards nothing of it changes. A run first claims its number, so two racing
runs get two numbers; a claimed number that never gets its marker stays unused for ever. Every file
is checked by size and digest when it is published and again whenever it is fetched. The price:
publishing reads back all it wrote (about 20 MB for the smallest models).
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from visionloop import publishing
from visionloop.aliases import AliasLog, AliasMove, Canary, CurrentAliases
from visionloop.bundle import MODEL_NAME_PATTERN, Bundle, parse_bundle
from visionloop.bundle_files import MARKER, check_names, file_entry
from visionloop.errors import CorruptError, InvalidInputError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.local import PARTIAL_SUFFIX, remove_abandoned, written_whole
from visionloop.version_files import fetch_files, missing_file
from visionloop.version_numbers import VERSION_PATTERN, VersionNumbers, checked_name

__all__ = ["CurrentAliases", "ModelRepository", "file_entry"]


class ModelRepository:
    """The models in a store. Safe to use from several threads and from any number of programs."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def models(self) -> list[str]:
        """The names of the models that have at least one version, in order."""
        names = [
            name
            for name in self._store.list_folders("models/")
            if re.fullmatch(MODEL_NAME_PATTERN, name)
        ]
        return [name for name in names if self._numbers(name).any_published()]

    def versions(self, model: str, known: Collection[int] = ()) -> list[int]:
        """The published versions, ascending; empty when there is no such model.

        One listing of the numbers and, several at a time, one look at each one's marker: what a
        version holds beside it (hundreds of golden images) costs nothing, and neither do those that
        are `known` from an earlier call.
        """
        return self._numbers(model).published(known)

    def read(self, model: str, version: int) -> Bundle:
        """The content of bundle.json; the other files are not looked at.

        Raises NotFoundError, and CorruptError when it is torn, altered or of an unknown format.
        """
        return self._read(model, version)[0]

    def fetch(self, model: str, version: int, folder: Path) -> Bundle:
        """Puts all files of a version into `folder`, bundle.json last, and checks their digests.

        Files that are there with the right content are kept, so a restart fetches only what is
        missing; several processes may fetch into one folder at once. Raises NotFoundError, and
        CorruptError when a file is missing, torn or altered: bundle.json is not written then.
        """
        bundle, data = self._read(model, version)
        remove_abandoned(folder.rglob(f".*{PARTIAL_SUFFIX}"))
        fetch_files(self._store, self._numbers(model).folder(version), bundle, folder)
        with written_whole(folder / MARKER) as file:
            file.write(data)
        return bundle

    def file(self, bundle: Bundle, name: str) -> bytes:
        """The content of one small file of a version, as "report/gate.json".

        Raises NotFoundError where the version has no such file, and CorruptError when it is
        missing, torn or altered.
        """
        entry = bundle.files.get(name)
        if entry is None:
            raise NotFoundError(f"version {bundle.version} of {bundle.model!r} has no file {name}")
        key = self._numbers(bundle.model).folder(bundle.version) + name
        try:
            data = self._store.get(key).data
        except NotFoundError:
            raise missing_file(self._store, key) from None
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry.size, entry.sha256):
            raise CorruptError(f"{self._store.url}/{key} is not what {MARKER} says")
        return data

    def claim(self, model: str, run_id: str) -> int:
        """Reserves the next free version number for a run.

        The same `run_id` gets the number back that it has, so a restarted run goes on with it.
        """
        return self._numbers(model).claim(run_id)

    def publish(self, bundle: Bundle, folder: Path) -> None:
        """Uploads the files that `bundle.files` lists from `folder`, then bundle.json.

        The number must be claimed by `bundle.run_id`, or by nobody yet. What was uploaded is read
        back and checked before the marker makes it visible. Raises ConflictError when the version
        is published already, belongs to another run, or is being published with other files by
        another process of this one (`publishing` says how that is told), CorruptError when a file
        does not agree with its entry, DiskFullError when there is no room in the store, or for the
        copy that is checked, which is in `folder`. What was uploaded is then removed, but for
        where another process had begun with the same files: it may be publishing them just now.
        """
        publishing.publish(self._store, self._numbers(bundle.model), bundle, folder)

    def aliases(self, model: str) -> CurrentAliases:
        """What stable and canary point at; empty when none was ever promoted."""
        return self._log(model).read()

    def resolve(self, model: str, version: str) -> int:
        """The number that "" (stable), "stable", "canary" or a number as "7" stands for.

        Raises NotFoundError that says what there is instead.
        """
        if re.fullmatch(VERSION_PATTERN, version):
            if not self._numbers(model).is_published(int(version)):
                raise self._no_version(model, int(version))
            return int(version)
        aliases = self.aliases(model).aliases
        if version in ("", "stable"):
            found = aliases.stable
        elif version == "canary":
            found = aliases.canary.version if aliases.canary is not None else None
        else:
            raise InvalidInputError(
                f"version {version!r} is neither a number nor stable nor canary", field="version"
            )
        if found is None:
            raise self._no_alias(model, version or "stable")
        return found

    def promote(
        self,
        model: str,
        version: int,
        *,
        expected: CurrentAliases,
        who: str,
        why: str,
        metrics: dict[str, float] | None = None,
        unpin: bool = False,
    ) -> AliasMove:
        """Points stable at a published version, if no alias moved since `expected` was read.

        Promoting what is stable already writes nothing and returns the move that made it so, or
        with `unpin` ends the pin. Raises NotFoundError or CorruptError for the version,
        RefusedError when stable is pinned at another and `unpin` is not given, ConflictError when
        another was faster.
        """
        self.read(model, version)
        log = self._log(model)
        if unpin and expected.aliases.pinned is not None and expected.aliases.stable == version:
            return self.unpin(model, expected=expected, who=who, why=why)
        if expected.aliases.stable == version and log.read().etag == expected.etag:
            return _newest(log, "stable", version)
        return log.move_stable(
            version,
            expected=expected,
            who=who,
            why=why,
            metrics=dict(metrics or {}),
            unpin=unpin,
        )

    def rollback(self, model: str, *, who: str, why: str, unpin: bool = False) -> AliasMove:
        """Points stable back at the version it pointed at before the current one.

        "Before" is `previous` of the newest move to the current version, as with `helm rollback`
        and `kubectl rollout undo`: a second rollback undoes the first. To go further back, promote
        that version. Raises RefusedError when there is nothing before, or when stable is pinned
        unless `unpin` ends that.
        """
        log = self._log(model)
        current = log.read()
        if current.aliases.stable is None:
            raise self._no_alias(model, "stable")
        target = _newest(log, "stable", current.aliases.stable).previous
        if target is None:
            raise RefusedError(
                f"model {model!r} had no stable version before {current.aliases.stable}: there is "
                "nothing to roll back to"
            )
        self.read(model, target)
        return log.move_stable(target, expected=current, who=who, why=why, metrics={}, unpin=unpin)

    def pin(self, model: str, *, expected: CurrentAliases, who: str, why: str) -> AliasMove:
        """Keeps stable where it is: promotions are refused until the pin ends.

        Pinning what is pinned replaces who and why. Raises NotFoundError when there is no stable
        version, ConflictError when an alias moved since `expected` was read.
        """
        if expected.aliases.stable is None:
            raise self._no_alias(model, "stable")
        return self._log(model).move_pin(pinned=True, expected=expected, who=who, why=why)

    def unpin(self, model: str, *, expected: CurrentAliases, who: str, why: str) -> AliasMove:
        """Ends the pin. Raises as `pin` does, and RefusedError when stable is not pinned."""
        if expected.aliases.stable is None:
            raise self._no_alias(model, "stable")
        if expected.aliases.pinned is None:
            raise RefusedError(f"stable of model {model!r} is not pinned")
        return self._log(model).move_pin(pinned=False, expected=expected, who=who, why=why)

    def set_canary(
        self,
        model: str,
        version: int,
        percent: float,
        *,
        expected: CurrentAliases,
        who: str,
        why: str,
    ) -> AliasMove:
        """Gives `percent` of the requests to a published version, if no alias moved meanwhile.

        Setting what is set already writes nothing and returns the move that made it so. Raises
        InvalidInputError for a percentage that is not between 0 and 100, NotFoundError or
        CorruptError for the version, RefusedError when there is no stable version beside which it
        could be a canary or it is that version itself, ConflictError when another was faster.
        """
        if not 0 < percent < 100:
            raise InvalidInputError(
                f"percent is {percent:g}; a canary gets more than 0 and less than 100 (for all "
                "requests, promote the version)",
                field="percent",
            )
        self.read(model, version)
        stable = expected.aliases.stable
        if stable is None:
            raise RefusedError(
                f"model {model!r} has no stable version yet, which would get the others; promote "
                f"one first: visionloop models promote {model} {version}"
            )
        if stable == version:
            raise RefusedError(
                f"version {version} of model {model!r} is stable already and gets all requests; a "
                "canary is another version"
            )
        log, canary = self._log(model), Canary(version=version, percent=percent)
        if expected.aliases.canary == canary and log.read().etag == expected.etag:
            return _newest(log, "canary", version)
        return log.move_canary(canary, expected=expected, who=who, why=why)

    def end_canary(self, model: str, *, expected: CurrentAliases, who: str, why: str) -> AliasMove:
        """Gives all requests back to stable, if no alias moved since `expected` was read.

        Raises NotFoundError when there is no such model, RefusedError when there is no canary,
        ConflictError when another was faster.
        """
        log = self._log(model)
        if expected.aliases.canary is None:
            if not self._numbers(model).any_published():
                raise self._no_model(model)
            raise RefusedError(f"model {model!r} has no canary version that could be ended")
        return log.move_canary(None, expected=expected, who=who, why=why)

    def previous_stable(self, model: str) -> int | None:
        """The version that stable pointed at before the current one; None when there was none.

        Usually two reads; one more for each move of the canary and the pin since.
        """
        log = self._log(model)
        stable = log.read().aliases.stable
        return None if stable is None else _newest(log, "stable", stable).previous

    def history(self, model: str) -> list[AliasMove]:
        """Every move of the model's aliases, oldest first."""
        return self._log(model).history()

    def _log(self, model: str) -> AliasLog:
        return AliasLog(self._store, checked_name(model))

    def _numbers(self, model: str) -> VersionNumbers:
        return VersionNumbers(self._store, model)

    def _read(self, model: str, version: int) -> tuple[Bundle, bytes]:
        key = self._numbers(model).folder(version) + MARKER
        try:
            data = self._store.get(key).data
        except NotFoundError:
            raise self._no_version(model, version) from None
        bundle = parse_bundle(data, f"{self._store.url}/{key}")
        if (bundle.model, bundle.version) != (model, version):
            raise CorruptError(
                f"{self._store.url}/{key} is the one of {bundle.model!r} version {bundle.version}"
            )
        try:
            check_names(bundle)
        except InvalidInputError as error:
            raise CorruptError(f"{self._store.url}/{key}: {error}") from None
        return bundle, data

    def _no_version(self, model: str, version: int) -> NotFoundError:
        there = self.versions(model)
        if not there:
            return self._no_model(model)
        shown = ", ".join(str(number) for number in there[-10:])
        return NotFoundError(f"model {model!r} has no version {version}; there are: {shown}")

    def _no_alias(self, model: str, alias: str) -> NotFoundError:
        there = self.versions(model)
        if not there:
            return self._no_model(model)
        if alias == "canary":
            return NotFoundError(f"model {model!r} has no canary version")
        return NotFoundError(
            f"model {model!r} has no stable version yet; promote one: "
            f"visionloop models promote {model} {there[-1]}"
        )

    def _no_model(self, model: str) -> NotFoundError:
        names = ", ".join(self.models())
        there = f"there are: {names}" if names else "there is none yet; train and publish one"
        return NotFoundError(f"no model {model!r} in {self._store.url}; {there}")


def _newest(log: AliasLog, alias: str, version: int) -> AliasMove:
    move = log.newest(alias, version)
    if move is None:
        raise CorruptError(f"the history has no move of {alias} to version {version}")
    return move
