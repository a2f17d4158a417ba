"""The prediction id says what it names and is read back exactly."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop.errors import InvalidInputError
from visionloop.prediction_id import PredictionId

hex_digits = "0123456789abcdef"
ids = st.builds(
    PredictionId,
    model=st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True),
    version=st.integers(1, 999_999_999),
    milliseconds=st.integers(0, 253_402_300_799_999),
    digest=st.text(hex_digits, min_size=16, max_size=16),
    nonce=st.text(hex_digits, min_size=8, max_size=8),
)


@given(ids)
def test_round_trip(prediction: PredictionId) -> None:
    assert PredictionId.parse(str(prediction)) == prediction
    assert prediction.made.tzinfo is UTC


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        parsed = PredictionId.parse(text)
    except InvalidInputError as error:
        named = error.field
    else:
        named = "prediction_id" if str(parsed) == text else "altered"
    assert named == "prediction_id"


def test_a_new_one_names_model_version_image_and_now() -> None:
    digest = hashlib.sha256(b"image").hexdigest()
    before = datetime.now(UTC)
    prediction = PredictionId.new("solar-cells", 7, digest)
    assert (prediction.model, prediction.version) == ("solar-cells", 7)
    assert digest.startswith(prediction.digest)
    assert abs(prediction.made - before) < timedelta(minutes=1)
    assert str(prediction).startswith("solar-cells:7:")


def test_two_predictions_of_one_image_differ() -> None:
    digest = hashlib.sha256(b"image").hexdigest()
    assert len({str(PredictionId.new("m", 1, digest)) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m:1:0:0123456789abcdef",
        "m:0:0:0123456789abcdef:01234567",
        "m:01:0:0123456789abcdef:01234567",
        "M:1:0:0123456789abcdef:01234567",
        "../m:1:0:0123456789abcdef:01234567",
        "m:1:999999999999999:0123456789abcdef:01234567",
        "m:1:0:0123456789ABCDEF:01234567",
        "m:1:0:0123456789abcdef:01234567\n",
        "m:١:0:0123456789abcdef:01234567",
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="prediction_id"):
        PredictionId.parse(text)


def test_parts_are_checked_when_made_too() -> None:
    with pytest.raises(InvalidInputError):
        PredictionId.new("No Such Name", 1, "0" * 64)
