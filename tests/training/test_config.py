"""The configuration: validated, documented, and its errors name the field."""

from pathlib import Path

import pytest

from visionloop.errors import ConfigurationError, NotFoundError
from visionloop_training import config

DOCS = Path(__file__).parents[2] / "docs" / "training-settings.md"


def test_later_sources_win(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("fit: {epochs: 3, batch_size: 8}\n")
    loaded = config.load("demo", file, ["fit.batch_size=16", "seed=7"])
    assert loaded.gate.policy == "not-significantly-worse"  # from the preset
    assert (loaded.fit.epochs, loaded.fit.batch_size, loaded.seed) == (3, 16, 7)


@pytest.mark.parametrize("preset", config.presets())
def test_presets_are_valid(preset: str):
    assert config.load(preset) != config.TrainingConfig()


def test_no_preset_is_every_settings_own_default():
    assert config.load("none") == config.load() == config.TrainingConfig()


@pytest.mark.parametrize(
    ("override", "field", "word"),
    [
        ("fit.epoch=3", "fit.epoch", "is no setting"),
        ("fit.epochs=many", "fit.epochs", "integer"),
        ("fit.freeze=1.5", "fit.freeze", "less than or equal to 1"),
        ("gate.policy=hope", "gate.policy", "non-inferior"),
        ("augment.symmetries=[spin]", "augment.symmetries.0", "flip_horizontal"),
        ("fit.learning_rate=-1e-3", "fit.learning_rate", "greater than 0"),
    ],
)
def test_errors_name_the_field(override: str, field: str, word: str):
    with pytest.raises(ConfigurationError) as caught:
        config.load(overrides=[override])
    assert caught.value.field == field
    assert field in str(caught.value)
    assert word in str(caught.value)


def test_numbers_of_yaml_1_1_are_numbers():
    assert config.load(overrides=["fit.learning_rate=1e-3"]).fit.learning_rate == 1e-3


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_words_that_yaml_1_1_takes_for_truth_values_are_words(word: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"export: {{half_precision: {word}}}\nfit: {{compile: {word}}}\n")
    loaded = config.load(file=file)
    assert (loaded.export.half_precision, loaded.fit.compile) == (word, word)
    assert config.load(overrides=[f"fit.compile={word}"]).fit.compile == word
    assert config.load(overrides=["fit.amp=off"]).fit.amp == "off"
    file.write_text(config.dump(loaded))
    assert config.load("none", file) == loaded


@pytest.mark.parametrize("text", ["fit: [1, 2", "- a\n- b\n"])
def test_files_that_are_no_settings_are_refused(tmp_path: Path, text: str):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"bad\.yaml"):
        config.load(file=file)


def test_missing_sources_say_what_there_is(tmp_path: Path):
    with pytest.raises(NotFoundError, match="balanced, best, demo, fast"):
        config.load("dmeo")
    with pytest.raises(NotFoundError, match=r"nothing\.yaml"):
        config.load(file=tmp_path / "nothing.yaml")
    with pytest.raises(ConfigurationError, match=r"section\.field=value"):
        config.load(overrides=["fit.epochs"])


def test_the_shown_configuration_loads_back(tmp_path: Path):
    shown = tmp_path / "shown.yaml"
    original = config.load("demo", overrides=["fit.freeze=blocks.2"])
    shown.write_text(config.dump(original))
    assert config.load(file=shown) == original


def test_every_setting_is_described():
    rows = config.describe()
    assert len({field for field, _, _ in rows}) == len(rows) > 30
    assert all(description.endswith(".") for _, _, description in rows)


def test_the_documented_table_is_current():
    assert config.markdown_table() in DOCS.read_text(), (
        "the table is out of date: python -m visionloop_training.config docs/training-settings.md"
    )
