"""Suggestions by the real inference service: asked once a version; what the queue makes of it."""

import hashlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from support.bundles import encoded, publish_bundle
from support.inference_server import Server, running_server
from support.pictures import noise
from support.stores import free_ports
from support.waiting import wait_for

from visionloop.client import Client
from visionloop.errors import UnavailableError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.snapshot import blob_key
from visionloop_labeling import acquisition, asking, datasets
from visionloop_labeling.datasets import Preferences
from visionloop_labeling.receipts import ImageRow, Way
from visionloop_labeling.schema import Dataset, Item, Prediction
from visionloop_labeling.suggestions import Suggester

DATASET = "test"  # the one that the test bundles say they were trained on
MODEL = "cells"
OTHER = "another"
SQLITE_IS_ENOUGH = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves version 1 of two models."""
    folder = tmp_path_factory.mktemp("inference")
    store = f"file://{folder / 'store'}"
    for name in (OTHER, MODEL):  # the second is the newer one
        publish_bundle(ModelRepository(open_store(store)), name, golden=4, promote=True)
    with running_server(folder, store) as running:
        running.store = folder / "store"
        yield running.ready()


@pytest.fixture
def suggester(core, server: Server, tmp_path: Path, monkeypatch) -> Iterator[Suggester]:
    """Of a dataset with the model's classes and one label each."""
    monkeypatch.setattr("visionloop_labeling.stable_models.BELIEVED_SECONDS", 0.0)
    core.create(DATASET)
    for number, name in enumerate(("cat", "coffee", "rocket")):
        core.add(encoded(number), name, dataset=DATASET)
    shutil.copytree(server.store / "models", tmp_path / "store" / "models")
    made = Suggester(core.database, core.store, Client(server.target))
    yield made
    made.close()


def sha256_of(number: int) -> str:
    return hashlib.sha256(encoded(number)).hexdigest()


def add(core, *numbers: int) -> list[str]:
    """Unlabelled images in one batch; their digests."""
    batch = f"added-from-{numbers[0]}"
    rows = [ImageRow(DATASET, batch, one, encoded(one), way=Way.GRPC) for one in numbers]
    receipts = core.submit(*rows)
    assert {receipt.outcome for receipt in receipts} == {"accepted"}
    return [receipt.sha256 for receipt in receipts]


def work_off(suggester: Suggester) -> None:
    """Until nothing waits; on a busy machine the service may be out of reach for a moment."""

    def nothing_waits() -> bool:
        try:
            return not suggester.work()
        except UnavailableError:
            return False

    wait_for(nothing_waits)


def items(core) -> dict[str, Item]:
    """The images of the dataset without a label, by digest."""
    with core.database.read() as session:
        dataset = datasets.find(session, DATASET)
        query = select(Item).where(Item.dataset_id == dataset.id, Item.state == "open")
        return {item.sha256: item for item in session.scalars(query)}


def predictions(core) -> dict[tuple[str, str, int], Prediction]:
    with core.database.read() as session:
        query = select(Item.sha256, Prediction).join(Item, Item.id == Prediction.item_id)
        return {(sha, p.model, p.version): p for sha, p in session.execute(query).tuples()}


def answered(server: Server) -> float:
    """Images that the inference service has answered since it began."""
    lines = server.get("/metrics")[1].splitlines()
    series = [line for line in lines if line.startswith("visionloop_predictions_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in series)


def prefer(core, **preferences: str) -> None:
    with core.database.write() as session:
        dataset = datasets.find(session, DATASET, lock=True)
        dataset.preferences = Preferences(**preferences).model_dump(mode="json")


def test_waiting_images_are_shown_to_the_datasets_model_once(core, suggester, server) -> None:
    added = add(core, *range(10, 50))
    work_off(suggester)
    found = predictions(core)
    assert found.keys() == {(sha256, MODEL, 1) for sha256 in added}, "labelled ones are not asked"
    one = added[7]
    (said,) = suggester._client.recognize([encoded(17)], model=MODEL)
    assert found[one, MODEL, 1].scores == [
        [label.class_id, pytest.approx(label.probability, abs=1e-5)] for label in said.labels
    ]
    first, second = found[one, MODEL, 1].scores[:2]
    assert found[one, MODEL, 1].margin == pytest.approx(first[1] - second[1], abs=1e-5)
    assert found[one, MODEL, 1].sure is not said.not_sure
    before = answered(server)
    assert before >= len(added)
    work_off(suggester)
    assert answered(server) == before, "asked twice"


def test_the_queue_asks_the_doubtful_first_but_for_the_random_tenth(core, suggester) -> None:
    numbers = range(100, 400)
    control = [n for n in numbers if acquisition.is_random(sha256_of(n))][:4]
    hidden = [n for n in numbers if acquisition.is_blind(sha256_of(n))][:4]
    add(core, *{*control, *hidden, *numbers[:40]})
    work_off(suggester)
    found = predictions(core)
    worth = {}
    for sha256, item in items(core).items():
        prediction = found[sha256, MODEL, 1]
        worth[sha256] = 0.7 * (1 - prediction.margin)  # all classes have one label: no deficit
        at_random = acquisition.is_random(sha256)
        assert item.why["model"] == "cells:1"
        assert item.why["reason"] == ("random" if at_random else "uncertain")
        assert item.why.get("blind", False) == acquisition.is_blind(sha256)
        assert ("share" in item.why) == at_random
        if acquisition.is_blind(sha256):
            assert "between" not in item.why, "it would give the hidden suggestion away"
        if not at_random:
            assert item.priority == pytest.approx(-worth[sha256], abs=1e-6)
    for number in control:
        place = -items(core)[sha256_of(number)].priority
        assert min(abs(place - one) for one in worth.values()) < 1e-6, "it is some image's place"


@SQLITE_IS_ENOUGH
def test_rare_classes_go_first(core, suggester) -> None:
    for number in range(30, 39):
        core.add(encoded(number), "cat", dataset=DATASET)  # ten cats, one of each other class
    add(core, *range(40, 60))
    work_off(suggester)
    found = predictions(core)
    for sha256, item in items(core).items():
        if acquisition.is_random(sha256):
            continue
        prediction = found[sha256, MODEL, 1]
        deficit = 0.0 if prediction.scores[0][0] == "cat" else 0.9
        wanted = 0.7 * (1 - prediction.margin) + 0.3 * deficit
        assert item.priority == pytest.approx(-wanted, abs=1e-6)
        if item.why["reason"] == "rare":
            assert prediction.scores[0][0] != "cat"


@SQLITE_IS_ENOUGH
def test_the_preferred_model_is_asked(core, suggester, caplog) -> None:
    added = add(core, 80)
    prefer(core, suggestions_model=OTHER)
    work_off(suggester)
    assert predictions(core).keys() == {(added[0], OTHER, 1)}
    prefer(core, suggestions_model="nobody-made-it")
    add(core, 81)
    assert suggester.work() is False
    assert "wants suggestions of model 'nobody-made-it'" in caplog.text
    assert len(predictions(core)) == 1


@SQLITE_IS_ENOUGH
def test_a_dataset_without_a_model_keeps_its_order(core, suggester) -> None:
    core.add(encoded(90))  # into the other dataset
    work_off(suggester)
    assert predictions(core) == {}


@SQLITE_IS_ENOUGH
def test_labelling_goes_on_while_inference_is_away(core, suggester) -> None:
    (port,) = free_ports(1)
    added = add(core, 82)
    alone = Suggester(core.database, core.store, Client(f"127.0.0.1:{port}"))
    with pytest.raises(UnavailableError):
        alone.work()
    alone.close()
    assert items(core)[added[0]].why == {}
    work_off(suggester)
    assert len(predictions(core)) == 1


@SQLITE_IS_ENOUGH
def test_images_that_get_no_answer_are_not_asked_again_and_hold_up_nothing(
    core, suggester, monkeypatch
) -> None:
    monkeypatch.setattr(asking, "GROUP", 2)
    added = add(core, *range(84, 90))
    for sha256 in added[:3]:
        core.store.put(blob_key(sha256), b"no image any more")
    core.store.delete(blob_key(added[3]))
    work_off(suggester)
    assert {sha256 for sha256, _, _ in predictions(core)} == set(added[4:])
    assert suggester.work() is False
    asked: list[object] = []
    monkeypatch.setattr(suggester, "_ask", lambda *_: asked.append(_))
    assert suggester.work() is False
    assert asked == []


@SQLITE_IS_ENOUGH
def test_what_people_see_next_is_asked_first(core, suggester, monkeypatch) -> None:
    monkeypatch.setattr(asking, "GROUP", 2)
    monkeypatch.setattr(asking, "_NEXT", 2)
    added = add(core, *range(90, 98))
    with core.database.write() as session:
        for number, sha256 in enumerate(added):
            item = session.scalars(select(Item).where(Item.sha256 == sha256)).one()
            item.priority = -float(number)  # the last that came is the first to be shown
    suggester.work()
    assert {sha256 for sha256, _, _ in predictions(core)} == set(added[-2:])
    work_off(suggester)
    assert {sha256 for sha256, _, _ in predictions(core)} == set(added)


def test_an_image_in_review_keeps_its_reason(core, suggester) -> None:
    (sha256,) = add(core, 99)
    core.add(encoded(99), "cat", dataset=DATASET, author_kind="import")
    core.add(encoded(99), "coffee", dataset=DATASET, author_kind="import")
    work_off(suggester)
    assert predictions(core).keys() == {(sha256, MODEL, 1)}
    with core.database.read() as session:
        item = session.scalars(select(Item).where(Item.sha256 == sha256)).one()
        assert (item.state, item.why, item.priority) == ("review", {"reason": "disputed"}, 0.0)


@SQLITE_IS_ENOUGH
def test_every_image_is_asked_whatever_the_size_of_groups_and_sweeps(
    core, suggester, monkeypatch
) -> None:
    monkeypatch.setattr(asking, "GROUP", 3)
    monkeypatch.setattr(asking, "_NEXT", 1)
    monkeypatch.setattr(asking, "_SWEEP", 7)
    for number in range(40):
        core.add(noise(number, side=24), "cat" if number % 3 else None, dataset=DATASET)
    work_off(suggester)
    with core.database.read() as session:
        open_items = select(func.count()).select_from(Item).where(Item.state == "open")
        assert session.scalar(open_items) == len(predictions(core)) == 14
        assert session.scalar(select(func.count()).select_from(Dataset)) == 2


def test_a_new_version_is_asked_anew(core, suggester, server, tmp_path) -> None:
    added = add(core, 70, 71)
    work_off(suggester)
    repository = ModelRepository(open_store(f"file://{server.store}"))
    before = repository.resolve(MODEL, "stable")
    bundle = publish_bundle(repository, MODEL, golden=4, promote=True)
    server.serves(bundle.version)
    shutil.rmtree(tmp_path / "store" / "models")
    shutil.copytree(server.store / "models", tmp_path / "store" / "models")
    work_off(suggester)
    versions = {before, bundle.version}
    assert predictions(core).keys() == {(s, MODEL, v) for s in added for v in versions}
    assert {item.why["model"] for item in items(core).values()} == {f"cells:{bundle.version}"}


def test_a_version_that_comes_back_is_asked_anew(core, suggester, server, tmp_path) -> None:
    """People see the newest answer: after a rollback it must not be that of what was taken back."""
    (added,) = add(core, 72)
    repository = ModelRepository(open_store(f"file://{server.store}"))
    first = repository.resolve(MODEL, "stable")
    second = publish_bundle(repository, MODEL, golden=4, promote=True).version
    for version in (first, second, first):
        if repository.resolve(MODEL, "stable") != version:
            repository.rollback(MODEL, who="ann", why="worse")
        server.serves(version, model=MODEL)
        shutil.rmtree(tmp_path / "store" / "models")
        shutil.copytree(server.store / "models", tmp_path / "store" / "models")
        work_off(suggester)
    said = predictions(core)
    assert said.keys() == {(added, MODEL, first), (added, MODEL, second)}
    assert said[added, MODEL, first].at > said[added, MODEL, second].at
    assert {item.why["model"] for item in items(core).values()} == {f"cells:{first}"}
    before = answered(server)
    work_off(suggester)
    assert answered(server) == before, "asked twice"


def test_the_controls_are_a_tenth_each_and_know_nothing_of_one_another() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]
    random = [acquisition.is_random(digest) for digest in digests]
    blind = [acquisition.is_blind(digest) for digest in digests]
    # Five standard deviations of a share of 0.1 among 20,000, and of 0.01 for both.
    assert statistics.mean(random) == pytest.approx(0.1, abs=0.0107)
    assert statistics.mean(blind) == pytest.approx(0.1, abs=0.0107)
    both = statistics.mean(r and b for r, b in zip(random, blind, strict=True))
    assert both == pytest.approx(0.01, abs=0.0036)


def test_worth_grows_with_doubt_and_with_rarity() -> None:
    assert acquisition.worth(0.1, 0.0) > acquisition.worth(0.5, 0.0)
    assert acquisition.worth(0.5, 0.9) > acquisition.worth(0.5, 0.0)
    assert (acquisition.worth(1.0, 0.0), acquisition.worth(0.0, 1.0)) == (0.0, 1.0)
    assert acquisition.deficits({"a": 10, "b": 1, "c": 0}) == {"a": 0.0, "b": 0.9, "c": 1.0}
    assert acquisition.deficits({"a": 0, "b": 0}) == {"a": 0.0, "b": 0.0}
    assert acquisition.deficits({}) == {}
