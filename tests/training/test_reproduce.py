"""A published version is built again from what its bundle says of it."""

import json
import subprocess
import sys

import pytest
from support.training_site import FIRST, PROBE, Site

from visionloop.cli import main as cli
from visionloop.errors import NotFoundError, RefusedError
from visionloop.record import record_bytes
from visionloop_training import reproduce as reproduce_module
from visionloop_training.app import main
from visionloop_training.reproduce import reproduce
from visionloop_training.stable import same_training


@pytest.mark.long
def test_the_command_line_and_what_differs(probed: Site, capfd: pytest.CaptureFixture[str]):
    site = probed
    site.write(dict.fromkeys(FIRST, 60))
    assert site.train(*PROBE, lane="fast").version == 2
    where = ["--store", site.url, "--cache", str(site.cache)]
    assert cli(["reproduce", "reader@2", *where]) == 0  # a process of its own
    assert "version 2 of reader is reproduced bit for bit" in capfd.readouterr().out

    # Someone says that the head was made with another penalty.
    bundle = site.repository.read("reader", 2)
    made_of = bundle.provenance
    config = {**made_of.config, "fit": {**made_of.config["fit"], "probe_penalty": [100.0]}}
    libraries = {**made_of.libraries, "numpy": "0.1"}
    provenance = made_of.model_copy(update={"config": config, "libraries": libraries})
    site.store.put(
        "models/reader/versions/2/bundle.json",
        record_bytes(bundle.model_copy(update={"provenance": provenance})),
    )
    assert main([*where, "--model", "reader", "--reproduce", "2"]) == 65
    told = capfd.readouterr()
    assert "NOT reproduced within 0.01" in told.out
    assert "! golden probabilities" in told.out
    assert "numpy" in told.out
    assert "version 2 of reader is not reproduced" in told.err
    assert main([*where, "--model", "reader", "--reproduce", "2", "--tolerance", "1"]) == 0
    told = capfd.readouterr()
    assert "is reproduced within 1, not bit for bit" in told.out
    assert main([*where, "--model", "reader", "--reproduce", "2", "--json"]) == 65
    document = json.loads(capfd.readouterr().out)
    assert (document["same"], document["identical"]) == (False, False)
    assert document["max_probability_difference"] > 0.01


def test_what_is_gone_is_told(probed: Site):
    site = probed
    site.write(dict.fromkeys(FIRST, 60))
    site.train(*PROBE, lane="fast")
    for stat in list(site.store.list("models/reader/versions/1/")):
        site.store.delete(stat.key)
    with pytest.raises(NotFoundError, match="a new head on the body of version 1, and that is"):
        reproduce(site.store, "reader", 2, site.folder / "other")
    bundle = site.repository.read("reader", 2)
    config = {**bundle.provenance.config, "later": 1}
    site.store.put(
        "models/reader/versions/2/bundle.json",
        record_bytes(
            bundle.model_copy(
                update={"provenance": bundle.provenance.model_copy(update={"config": config})}
            )
        ),
    )
    with pytest.raises(RefusedError, match="does not know"):
        reproduce(site.store, "reader", 2, site.folder / "other")


def test_a_version_from_before_images_were_reduced_counts_every_pixel(probed: Site):
    """The setting's default says otherwise, and its own preprocessing what was done."""
    bundle = probed.repository.read("reader", 1)
    today = reproduce_module._config(bundle)
    assert today.pixels.reducing_gap == bundle.preprocessing.reducing_gap == 2.0
    made_of = bundle.provenance.config
    pixels = {name: value for name, value in made_of["pixels"].items() if name != "reducing_gap"}
    older = bundle.model_copy(
        update={
            "preprocessing": bundle.preprocessing.model_copy(update={"reducing_gap": None}),
            "provenance": bundle.provenance.model_copy(
                update={"config": {**made_of, "pixels": pixels}}
            ),
        }
    )
    config = reproduce_module._config(older)
    assert config.pixels.reducing_gap is None
    assert same_training(older, config)
    assert not same_training(older, today)


@pytest.mark.parametrize("wrong", ["reader", "reader@", "@3", "reader@new"])
def test_a_name_that_is_no_version_is_told(wrong: str, capsys: pytest.CaptureFixture[str]):
    assert cli(["reproduce", wrong]) == 64
    assert "write MODEL@NUMBER" in capsys.readouterr().err


def test_without_torch_one_line_says_what_to_install():
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "from visionloop.cli.main import main; sys.exit(main(['reproduce', 'cells@1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 64
    assert "pip install 'visionloop[training]'" in done.stderr
