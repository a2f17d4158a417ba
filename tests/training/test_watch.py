"""What a run tells while it goes."""

import importlib.util
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.training_site import Site

from visionloop.errors import ConfigurationError
from visionloop_training.app import main
from visionloop_training.fit_state import Epoch
from visionloop_training.watch import Curves, Watch, served


def scraped(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
        if name.startswith("visionloop_training_")
    }


def test_what_the_loop_says_is_scraped_while_it_runs():
    watch = Watch()
    with served(0, "127.0.0.1", insecure=False) as port:
        watch.stage("snapshot")
        watch.stage("fit")
        watch.begin(3)
        with watch.waiting():
            pass
        watch.step(41, images=8)
        watch.step(42, images=8)
        watch.steps_done()
        watch.epoch(Epoch(3, 0.5, 0.25, 0.9, 1e-3, 1.0))
        found = scraped(port)
    assert found["visionloop_training_epoch"] == 3
    assert found["visionloop_training_step"] == 42
    assert found["visionloop_training_last_step_timestamp_seconds"] > 1.7e9
    assert found['visionloop_training_loss{split="train"}'] == 0.5
    assert found['visionloop_training_loss{split="val"}'] == 0.25
    assert found["visionloop_training_images_per_second"] == watch.images_per_second > 0
    assert 0 <= found["visionloop_training_loader_wait_ratio"] <= 1
    assert found['visionloop_training_stage_info{stage="fit"}'] == 1
    assert found['visionloop_training_stage_info{stage="snapshot"}'] == 0
    with pytest.raises(OSError, match="refused"):
        scraped(port)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--metrics-port", "99999"], "--metrics-port is 99999"),
        (["--metrics-port", "0", "--metrics-host", "0.0.0.0"], "add --insecure"),  # noqa: S104
    ],
)
def test_a_port_that_must_not_be_served_is_told(site: Site, capsys, flags: list[str], words: str):
    where = ["--store", site.url, "--dataset", "d", "--model", "m", "--cache", str(site.folder)]
    assert main([*where, *flags]) == 64
    assert words in capsys.readouterr().err


def test_curves_for_tensorboard(tmp_path: Path):
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ConfigurationError, match="pip install tensorboard"):
            Curves(tmp_path)
        return
    watch = Watch(Curves(tmp_path))
    watch.epoch(Epoch(1, 0.5, 0.25, 0.9, 1e-3, 1.0))
    watch.close()
    [file] = tmp_path.glob("events.out.tfevents.*")
    assert b"accuracy/val" in file.read_bytes()
