"""Settings are found by the words that people have for them."""

import pytest

from visionloop.errors import ConfigurationError, NotFoundError
from visionloop_training import config
from visionloop_training.app import main
from visionloop_training.flags import parser
from visionloop_training.setting_names import ELSEWHERE, explained, near

ROWS = config.describe()


def test_help_alone_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    _, _, told = capsys.readouterr().out.partition("settings, as --set")
    words = set(told.split())
    for field, _, _ in ROWS:
        section, _, name = field.rpartition(".")
        assert {name, f"{section}." if section else name} <= words


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("lr", "fit.learning_rate"),
        ("learning-rate", "fit.learning_rate"),
        ("early stopping", "fit.patience"),
        ("num_workers", "threads"),
        ("Focal", "fit.loss"),
        ("mixup", "mixing.mixup"),
        ("freeze", "fit.freeze"),
        ("class_weights", "fit.class_weights"),
        ("dense layers", "head.hidden"),
    ],
)
def test_a_word_finds_its_setting(word: str, field: str) -> None:
    assert f"{field}=" in explained(ROWS, word)


def test_words_of_other_tools_lead_to_settings_that_exist() -> None:
    assert set(ELSEWHERE.values()) <= {field for field, _, _ in ROWS}


def test_no_word_explains_all_and_a_strange_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--settings"]) == 0
    assert capsys.readouterr().out.count("=") >= len(ROWS)
    with pytest.raises(NotFoundError, match="--settings alone prints all"):
        explained(ROWS, "flux capacitor")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("fit.lr", ["fit.learning_rate"]),
        ("learning_rate", ["fit.learning_rate"]),
        ("fit.epoch", ["fit.epochs"]),
        ("head.dropuot", ["head.dropout"]),
        ("whatever.it.is", []),
    ],
)
def test_a_wrong_name_is_told_what_was_meant(wrong: str, meant: list[str]) -> None:
    assert near(ROWS, wrong)[: len(meant) or 1] == meant
    with pytest.raises(ConfigurationError, match="is no setting") as caught:
        config.load(overrides=[f"{wrong}=1"])
    assert all(name in str(caught.value) for name in meant)
