"""Is there a reason to train again, and how much of it? What `--if-needed` weighs.

    new labels        enough of them since stable's snapshot          a new head   (lane fast)
    label drift       the mix of classes is another one               a new head
    labels since full many of them since the last full training       everything   (lane full)
    fresh errors      stable is worse on new images than was promised everything
    embedding drift   new images look otherwise                       everything
    classes           one appeared or was retired                     everything
    configuration     it is another than stable was made with         everything
    age               the last full training is long ago              everything

Every trigger tells its number, its limit and what it means, fired or not. New images are those of
which stable saw neither the bytes nor a near-duplicate. They are no random sample: people label
first what the model is unsure of, so errors on them are more frequent than among all images. That
makes the trigger eager, never the gate: what is trained for nothing is not promoted for nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from visionloop.bundle import ClassifierBundle
from visionloop.errors import ConfigurationError
from visionloop.snapshot import Snapshot, diff
from visionloop_training import fresh
from visionloop_training.data import Blobs, Dataset, Item
from visionloop_training.drift import label_drift, presence_drift
from visionloop_training.stable import Version
from visionloop_training.triggers_config import TriggersConfig

Lane = Literal["fast", "full"]
Asked = Literal["fast", "full", "auto"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to train: its number, the limit from which on it counts, and both in words."""

    name: str
    lane: Lane  # that it asks for
    fired: bool
    value: float | None
    limit: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Which lane is to run, if any, and all that was weighed."""

    lane: Lane | None
    reason: str
    triggers: tuple[Trigger, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Decision":
        """What `as_json` gave."""
        found = tuple(Trigger(**trigger) for trigger in plain["triggers"])
        return cls(plain["lane"], plain["reason"], found)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is weighed: the data as it is now, and what the model in production was made of."""

    asked: Asked
    data: Dataset
    now: Snapshot
    stable: Version | None
    full: Version | None  # of the full lane, whose body stable has (or stable); None with stable
    blobs: Blobs
    config: TriggersConfig
    same_config: bool  # as `full` was made with

    @property
    def already_made(self) -> Version | None:
        """The version that a run would only make again, if there is one."""
        of_head = self.asked == "fast"
        reference = self.stable if of_head else self.full
        if reference is None or not _same_snapshot(reference.bundle, self.now):
            return None
        return reference if of_head or self.same_config else None


def asked_for(asked: Asked, stable: Version | None) -> Decision:
    """Without any weighing: what the flag says. Raises ConfigurationError where that cannot be."""
    if asked == "fast" and stable is None:
        raise ConfigurationError(
            "--lane fast makes a new head for the stable version, and there is none yet; run "
            "without it first",
            field="lane",
        )
    return Decision("full" if asked != "fast" else "fast", "asked for")


def anything_new(situation: Situation) -> Decision:
    """Without `--if-needed`: anything but the same snapshot with the same configuration is new."""
    decision = asked_for(situation.asked, situation.stable)
    made = situation.already_made
    return decision if made is None else _same(made, situation.now)


def weigh(situation: Situation) -> Decision:
    """With `--if-needed`: every trigger, and what they ask for together."""
    asked, stable, full = situation.asked, situation.stable, situation.full
    data, now, config = situation.data, situation.now, situation.config
    if stable is None or full is None:
        return _first(asked)
    if situation.already_made is not None:
        return _same(situation.already_made, now)
    if stable.snapshot is None or full.snapshot is None:
        lost = Trigger(
            "history", "full", True, None, None, "the snapshot of the stable version is gone"
        )
        return _decide(asked, [lost])
    new = fresh.new_items(data, stable)
    triggers = [
        _new_labels(stable.snapshot, now, len(data.train), config),
        _labels_since_full(asked, full.snapshot, now, len(data.train), config),
        _label_drift(stable.snapshot, data, new, config),
        _classes(data, stable),
        _configuration(situation.same_config),
        _age(full.bundle, config),
    ]
    return _decide(asked, [*triggers, *_of_new_images(situation, stable, new)])


def _of_new_images(situation: Situation, stable: Version, new: Sequence[Item]) -> list[Trigger]:
    """The triggers for which stable has to answer new images."""
    config, blobs = situation.config, situation.blobs
    # In the order of digests the first ones are a random sample, and the same next time.
    shown = sorted(new, key=lambda item: item.sha256)[: config.fresh_images]
    if len(shown) >= config.min_fresh_images:
        answered = fresh.ask_stable(shown, stable, blobs)
        errors = _fresh_errors(answered, situation.data, config)
        return [errors, _embedding_drift(answered, blobs, config)]
    words = f"{len(shown)} new images; {config.min_fresh_images} are needed to tell"
    return [
        Trigger(name, "full", False, None, None, words)
        for name in ("fresh_errors", "embedding_drift")
    ]


def _same(reference: Version, now: Snapshot) -> Decision:
    return Decision(
        None,
        f"version {reference.bundle.version} was trained on this snapshot "
        f"({now.manifest.id[:19]}) with this configuration",
    )


def _first(asked: Asked) -> Decision:
    words = "there is no stable version yet"
    trigger = Trigger("first", "full", True, None, None, words)
    if asked == "fast":
        words += "; the fast lane makes a new head for one. Run the full lane first"
        return Decision(None, words, (trigger,))
    return Decision("full", words, (trigger,))


def _decide(asked: Asked, triggers: Sequence[Trigger]) -> Decision:
    """What was asked for counts first: `fast` never trains everything, whatever calls for it."""
    fired = [t for t in triggers if t.fired]
    full = [t for t in fired if t.lane == "full"]
    fast = [t for t in fired if t.lane == "fast"]
    lane: Lane | None = None
    if asked == "fast":
        # A new head knows new classes; all else that asks for everything is left to that lane.
        because = [*fast, *(t for t in full if t.name == "classes")]
        lane = "fast" if because else None
    elif asked == "full":
        # Labels count from the last full training here: the fast lane's heads are no reason less.
        because = [t for t in fired if t.name != "new_labels"]
        lane = "full" if because else None
    else:
        because = full or fast
        lane = because[0].lane if because else None
    if lane is None:
        waiting = "; ".join(t.words for t in triggers if t.name in _TOLD)
        asks = f" (the full lane is asked for: {full[0].words})" if full else ""
        return Decision(None, waiting + asks, tuple(triggers))
    return Decision(lane, "; ".join(t.words for t in because), tuple(triggers))


_TOLD = ("new_labels", "labels_since_full")  # what people can do something about


def _same_snapshot(bundle: ClassifierBundle, now: Snapshot) -> bool:
    made_of = bundle.provenance
    return (made_of.dataset, made_of.snapshot) == (now.manifest.dataset, now.manifest.id)


def _changed(before: Snapshot, now: Snapshot) -> int:
    found = diff(before, now)
    return len(found.added) + len({*found.relabelled, *found.reweighted})


def _new_labels(before: Snapshot, now: Snapshot, train: int, config: TriggersConfig) -> Trigger:
    count = _changed(before, now)
    limit = max(config.min_new_labels, config.new_label_share * train)
    words = f"{count} new labels since the stable version (of {limit:.0f} that are a reason)"
    return Trigger("new_labels", "fast", count >= limit, count, limit, words)


def _labels_since_full(
    asked: Asked, before: Snapshot, now: Snapshot, train: int, config: TriggersConfig
) -> Trigger:
    count = _changed(before, now)
    share = config.new_label_share if asked == "full" else config.full_label_share
    limit = max(config.min_new_labels, share * train)
    words = f"{count} since the last full training (of {limit:.0f})"
    return Trigger("labels_since_full", "full", count >= limit, count, limit, words)


def _label_drift(
    before: Snapshot, data: Dataset, fresh: Sequence[Item], config: TriggersConfig
) -> Trigger:
    if data.task == "multi_label":
        return _presence_drift(before, data, fresh, config)
    then = Counter(row.class_id for row in before.rows if row.class_id is not None)
    now = Counter(data.class_ids[item.label] for item in fresh)
    found = label_drift(then, now)
    enough = found.images >= config.min_fresh_images
    fired = enough and found.psi >= config.label_psi and found.p_value < config.alpha
    words = (
        f"the classes of {found.images} new images: PSI {found.psi:.2f} (drift from "
        f"{config.label_psi:g}), chi-squared p = {found.p_value:.2g}"
    )
    return Trigger("label_drift", "fast", fired, found.psi, config.label_psi, words)


def _presence_drift(
    before: Snapshot, data: Dataset, fresh: Sequence[Item], config: TriggersConfig
) -> Trigger:
    """Class by class, where an image may have several; it tells of the class that moved most."""
    limit = config.label_psi
    then = Counter(name for row in before.rows for name in row.labels)
    now = Counter(data.class_ids[place] for item in fresh for place in item.classes)
    drifts = presence_drift(then, len(before.rows), now, len(fresh))
    moved = {name: one for name, one in drifts.items() if one.p_value < config.alpha}
    name, found = max((moved or drifts).items(), key=lambda pair: pair[1].psi)
    fired = len(fresh) >= config.min_fresh_images and bool(moved) and found.psi >= limit
    words = (
        f"of {len(fresh)} new images class {name!r} moved most: PSI {found.psi:.2f} (drift from "
        f"{limit:g}), chi-squared p = {found.p_value:.2g}"
    )
    return Trigger("label_drift", "fast", fired, found.psi, limit, words)


def _classes(data: Dataset, stable: Version) -> Trigger:
    added = [name for name in data.class_ids if name not in stable.class_ids]
    retired = [name for name in stable.class_ids if name not in data.class_ids]
    parts = [f"new: {', '.join(added)}"] if added else []
    parts += [f"retired: {', '.join(retired)}"] if retired else []
    words = f"classes {'; '.join(parts)}" if parts else "the classes are the same"
    return Trigger("classes", "full", bool(parts), float(len(added) + len(retired)), 1.0, words)


def _configuration(same: bool) -> Trigger:
    words = "the configuration is " + ("the same" if same else "another than stable's")
    return Trigger("configuration", "full", not same, None, None, words)


def _age(bundle: ClassifierBundle, config: TriggersConfig) -> Trigger:
    days = (datetime.now(UTC) - bundle.created).total_seconds() / 86_400
    fired = bool(config.max_age_days) and days >= config.max_age_days
    words = f"the last full training is {days:.1f} days ago (of {config.max_age_days:g})"
    return Trigger("age", "full", fired, round(days, 3), config.max_age_days, words)


def _fresh_errors(answered: fresh.NewImages, data: Dataset, config: TriggersConfig) -> Trigger:
    found = answered.errors(data.class_ids)
    if found is None or found.images < config.min_fresh_images:
        words = "stable promised no accuracy, or too few new images are of its classes"
        return Trigger("fresh_errors", "full", False, None, None, words)
    words = (
        f"{found.wrong} of {found.images} new images are answered wrong ({found.share:.1%}; "
        f"promised at most {found.promised:.1%}, p = {found.p_value:.2g})"
    )
    fired = found.p_value < config.alpha
    return Trigger("fresh_errors", "full", fired, found.share, found.promised, words)


def _embedding_drift(answered: fresh.NewImages, blobs: Blobs, config: TriggersConfig) -> Trigger:
    found, limit = answered.drift(blobs), config.embedding_distance
    if found is None:
        words = "the stable version gives no embeddings"
        return Trigger("embedding_drift", "full", False, None, limit, words)
    fired = found.distance >= limit and found.p_value < config.alpha
    words = (
        f"the embeddings of {found.images} new images lie {found.distance:.2f} standard deviations "
        f"away (drift from {limit:g}), p = {found.p_value:.2g}"
    )
    return Trigger("embedding_drift", "full", fired, found.distance, limit, words)
