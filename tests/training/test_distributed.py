"""Several processes make the model that one makes, also when one goes on where two were killed."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_site import PROBE, Site
from torch import distributed

from visionloop.errors import ConfigurationError
from visionloop.failpoints import ENVIRONMENT_VARIABLE
from visionloop_training import distributed as distributed_module
from visionloop_training.app import main
from visionloop_training.config import load
from visionloop_training.distributed import Workers, tree_sum

ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
SETTINGS = (
    *PROBE,
    "fit.epochs=3",
    "fit.freeze=0.5",
    "fit.batch_size=8",
    "fit.keep=last",
    "fit.slices=2",
)


def flags(site: Site, *more: str) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader", "--no-promote"]
    where += ["--again"]  # the version of the round before would do
    return [*where, "--cache", str(site.cache), *settings, *more]


def torchrun(site: Site, processes: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """`processes` of the job on this machine, a checkpoint after each step."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    job = [sys.executable, "-m", "visionloop_training", *flags(site, "--checkpoint-seconds=1e-6")]
    return subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", *job],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def graph(site: Site, version: int) -> str:
    return site.repository.read("reader", version).files["model.onnx"].sha256


@pytest.mark.long
@pytest.mark.kill
def test_two_processes_then_one_make_what_one_makes(site: Site, tmp_path: Path):
    site.write({"0": 40, "1": 40})
    assert main(flags(site)) == 0
    for number in range(ROUNDS):
        step = random.Random(number).randint(3, 20)
        killed = torchrun(site, 2, **{ENVIRONMENT_VARIABLE: f"fit.step:{step}"})
        assert killed.returncode != 0
        assert signal.SIGKILL.name in killed.stderr
        if number % 2:  # two, one, two
            one = torchrun(site, 1, **{ENVIRONMENT_VARIABLE: "fit.step:1"})
            assert signal.SIGKILL.name in one.stderr
            two = torchrun(site, 2)
            assert two.returncode == 0, two.stderr
        else:
            assert main(flags(site)) == 0
        assert graph(site, 2 + number) == graph(site, 1)


def test_a_sum_has_the_same_terms_whoever_adds_up():
    torch.manual_seed(0)
    terms = [[torch.randn(1000) * 10**n] for n in range(4)]
    whole = tree_sum(terms)[0]
    for processes in (2, 4):
        each = [Workers(rank, processes).own(4) for rank in range(processes)]
        parts = [tree_sum([terms[n] for n in own]) for own in each]
        assert torch.equal(tree_sum(parts)[0], whole)


def test_what_cannot_be_shared_out_is_said():
    with pytest.raises(ConfigurationError, match=r"fit\.slices is 2, and 4 processes"):
        Workers(0, 4).check_slices(2)
    with pytest.raises(ConfigurationError, match="power of two"):
        load(overrides=("fit.slices=3",))


def test_a_number_of_processes_that_makes_no_pairs_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigurationError, match="torchrun started 3 processes"):
        Workers.joined()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "RANK is not set; set RANK, WORLD_SIZE"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"RANK": "2"}, "RANK is 2; of 2 processes it is 0 to 1"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, "LOCAL_WORLD_SIZE is not set; set RANK"),
        ({"RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK is not set; set RANK"),
        (
            {"RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
            "LOCAL_RANK is 1; of 1 processes it is 0 to 0",
        ),
        ({"RANK": "1"}, "process 1 of 2 does not know where the others meet: .*MASTER_ADDR"),
    ],
)
def test_an_environment_that_says_too_little_is_said(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], words: str
):
    """The last says as much as Kubeflow does but for the address: not who shares the machine."""
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", **told}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words):
        Workers.joined()


def test_a_slow_process_is_never_far_behind(monkeypatch: pytest.MonkeyPatch):
    """Each part is computed when it is its turn: for all of them at once others would wait for
    hours, and an exchange bears half of one."""
    told: list[int | str] = []
    monkeypatch.setattr(distributed, "broadcast", lambda *_: told.append("exchange"))

    def compute(part: int) -> torch.Tensor:
        told.append(part)
        return torch.full((1,), float(part))

    found = list(Workers(0, 2).gather(4, compute))
    assert [float(one) for one in found[::2]] == [0.0, 2.0]
    assert [one for one in told if one != "exchange"] == [0, 2]
    assert told.index(2) > told.index("exchange")


def test_partners_are_as_patient_as_all_together(monkeypatch: pytest.MonkeyPatch):
    """NCCL's own patience is a third of it."""
    asked: list[object] = []
    monkeypatch.setattr(distributed, "new_group", lambda *_, timeout: asked.append(timeout))
    Workers(0, 4)._make_pairs()
    assert len(asked) == 4
    assert set(asked) == {distributed_module._PATIENCE}


def test_numbers_are_the_leading_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "broadcast", lambda told, _: told.copy_(told + 1))
    assert Workers(1, 2).leaders_numbers([0.1, 3.0]) == [1.1, 4.0]
    assert Workers().leaders_numbers([0.1, 3.0]) == [0.1, 3.0]
