"""How the answers of a model of several classes an image are told, to the client and to people."""

import argparse
import asyncio
from pathlib import Path

import numpy as np
import pytest
from support.bundles import LABELS, build_bundle, of_several

from visionloop.bundle import Bundle, MultiLabelBundle, TensorOutput, parse_bundle
from visionloop.calibration import LabelThresholds
from visionloop.cli import predict
from visionloop.cli.output import Output
from visionloop.errors import CorruptError, InvalidInputError
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.recognition_messages import results_of
from visionloop.record import record_bytes
from visionloop.telemetry.metrics import REGISTRY
from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.decoding import Decoded
from visionloop_inference.feedback import FeedbackInbox
from visionloop_inference.results import NO_CLASS, MultiLabel

CAT, COFFEE, ROCKET = LABELS


@pytest.fixture
def bundle(tmp_path: Path) -> MultiLabelBundle:
    """Thresholds 0.3, 0.5 and 0.9."""
    return of_several(build_bundle(tmp_path, golden=1, before_ready=1))


def told(bundle: MultiLabelBundle, rows: list[list[float]], top_k: int = 0) -> pb.RecognizeResponse:
    array = np.asarray(rows, np.float32)
    answer = Answer({"probabilities": Tensor("FP32", array.shape, array.tobytes())})
    decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 4, 3, "0" * 64)] * len(rows)
    request = pb.RecognizeRequest(images=[pb.EncodedImage(id=str(i)) for i in range(len(rows))])
    request.top_k = top_k
    return asyncio.run(MultiLabel(bundle).respond(request, decoded, answer))


def test_each_class_has_a_threshold_of_its_own(bundle: MultiLabelBundle) -> None:
    response = told(bundle, [[0.4, 0.8, 0.85], [0.29, 0.49, 0.89], [0.1, 0.2, 0.9]])
    both, none, edge = results_of(["a", "b", "c"], response, "here")
    assert [label.class_id for label in both.labels] == [ROCKET, COFFEE, CAT]
    assert [label.class_id for label in both.present] == [COFFEE, CAT]
    assert both.multi_label
    assert both.labels[2].threshold == 0.3
    assert (none.present, none.error) == ((), None)
    assert [label.class_id for label in edge.present] == [ROCKET]
    assert PredictionId.parse(none.prediction_id).version == bundle.version


def test_what_an_image_shows_is_never_cut_off_by_top_k(bundle: MultiLabelBundle) -> None:
    [result] = results_of(["a"], told(bundle, [[0.4, 0.45, 0.85]], top_k=1), "here")
    assert [(label.class_id, label.present) for label in result.labels] == [
        (ROCKET, False),
        (CAT, True),
    ]


def test_an_answer_that_is_no_number_is_an_error_of_its_image(bundle: MultiLabelBundle) -> None:
    good, bad = results_of(["a", "b"], told(bundle, [[0.9] * 3, [0.9, np.nan, 0.1]]), "here")
    assert (good.error, len(good.present)) == (None, 3)
    assert "no number" in str(bad.error)
    assert bad.present == ()


def test_images_are_counted_under_each_class_that_they_show(bundle: MultiLabelBundle) -> None:
    def counted(name: str) -> float:
        series = {"model": bundle.model, "class": name, "confidence": "sure"}
        return REGISTRY.get_sample_value("visionloop_predictions_total", series) or 0.0

    names = (*LABELS, NO_CLASS)
    before = [counted(name) for name in names]
    told(bundle, [[0.4, 0.8, 0.1], [0.4, 0.1, 0.1], [0.0, 0.0, 0.0]])
    assert [counted(n) - b for n, b in zip(names, before, strict=True)] == [2, 1, 0, 1]


def test_an_image_unlike_the_train_images_is_not_sure_and_keeps_its_classes(
    bundle: MultiLabelBundle,
) -> None:
    far = bundle.model_copy(
        update={
            "outputs": [*bundle.outputs, TensorOutput(name="far", kind="distance", shape=[1])],
            "thresholds": bundle.thresholds.model_copy(update={"distance": 0.2}),
        }
    )
    chances = np.full((3, 3), 0.95, np.float32)
    distances = np.asarray([[0.1], [0.3], [np.nan]], np.float32)
    answer = Answer(
        {
            "probabilities": Tensor("FP32", chances.shape, chances.tobytes()),
            "far": Tensor("FP32", distances.shape, distances.tobytes()),
        }
    )
    decoded = [Decoded(np.zeros((1, 1, 3), np.uint8), 1, 1, "0" * 64)] * 3
    request = pb.RecognizeRequest(images=[pb.EncodedImage(id=name) for name in "abc"])
    found = results_of(
        list("abc"), asyncio.run(MultiLabel(far).respond(request, decoded, answer)), "here"
    )
    assert [one.not_sure_reason for one in found] == ["", "unfamiliar", "unfamiliar"]
    assert [one.not_sure for one in found] == [False, True, True]
    assert all(len(one.present) == 3 for one in found)


def test_a_bundle_says_one_value_for_each_label(bundle: MultiLabelBundle) -> None:
    assert parse_bundle(record_bytes(bundle)) == bundle
    wrong = bundle.model_copy(
        update={"thresholds": LabelThresholds(method="max_f1", present=[0.5])}
    )
    with pytest.raises(CorruptError, match=r"thresholds.present has 1 values for 3 labels"):
        parse_bundle(record_bytes(wrong))


def test_people_read_what_is_shown_first(
    bundle: MultiLabelBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results_of(["a", "b"], told(bundle, [[0.4, 0.8, 0.85], [0.0] * 3]), "here")

    class Answered:
        def __enter__(self) -> "Answered":
            return self

        def __exit__(self, *_: object) -> None: ...

        def recognize(self, *_: object, **__: object) -> object:
            return found

    monkeypatch.setattr(predict, "open_client", lambda _: Answered())
    options = argparse.Namespace(images=["a", "b"], model="", model_version="", top_k=0, csv=False)
    assert predict.predict(options, Output(as_json=False)) == 0
    said = capsys.readouterr().out
    assert "Coffee 0.800, Cat 0.400 (below their thresholds: Rocket 0.850)" in said
    assert "none of its classes (below" in said
    assert predict.predict(options, Output(as_json=True)) == 0
    assert '"present": true' in capsys.readouterr().out


def test_one_class_is_no_feedback_on_an_image_of_several(
    bundle: MultiLabelBundle, tmp_path: Path
) -> None:
    def find(_model: str) -> dict[int, Bundle]:
        return {bundle.version: bundle}

    inbox = FeedbackInbox(f"file://{tmp_path}/inbox", find)
    prediction = PredictionId.new(bundle.model, bundle.version, "0" * 64)
    with pytest.raises(InvalidInputError, match="several classes"):
        inbox._unknown([CAT], "class_id", prediction)
    assert inbox._unknown([], "classes", prediction) == []
    assert inbox._unknown([ROCKET, CAT], "classes", prediction) == []
    assert inbox._unknown([CAT, "dog"], "classes", prediction) == ["dog"]
    with pytest.raises(InvalidInputError, match="'a dog' is no class of model"):
        inbox._unknown([CAT, "a dog"], "classes", prediction)
