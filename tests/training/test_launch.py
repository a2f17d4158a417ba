"""One exit code for many processes: what a Kubernetes Job reads."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.training_site import PROBE, Site
from support.waiting import wait_for

from visionloop.errors import ConfigurationError
from visionloop_training import launch
from visionloop_training.app import main
from visionloop_training.launch import Place

LAUNCH = (
    "import sys; from visionloop_training.launch import *; "
    "sys.exit(run(Place(processes=2), sys.argv[1:]))"
)


def codes(script: str, *, node_rank: int = 0, nodes: int = 1) -> int:
    """Two children that run `script` with RANK in `rank`."""
    code = f"import os, pathlib, signal, sys, time; rank = int(os.environ['RANK'])\n{script}"
    place = Place(nodes, node_rank, 2, "127.0.0.2")
    return launch.run(place, [sys.executable, "-c", code])


def after_the_other(folder: Path, handler: str, first: str) -> str:
    """Rank 0 handles SIGTERM by `handler` and sleeps; as soon as it does, rank 1 runs `first`."""
    file = f"pathlib.Path({str(folder / 'ready')!r})"
    return (
        "if rank == 0:\n"
        f"    signal.signal(signal.SIGTERM, {handler})\n"
        f"    {file}.touch()\n"
        "    time.sleep(60)\n"
        f"while not {file}.exists(): time.sleep(0.01)\n"
        f"{first}"
    )


def test_all_well_is_zero():
    assert codes("assert os.environ['WORLD_SIZE'] == '2'") == 0


def test_the_leading_process_decides(tmp_path: Path):
    saved = "lambda *_: sys.exit(85)"
    assert codes(after_the_other(tmp_path, saved, "sys.exit(69)")) == 85


def test_what_fails_another_for_good_is_not_run_again(tmp_path: Path):
    """The leading one stops because of it, and a Job repeats 85 as often as it comes."""
    saved = "lambda *_: sys.exit(85)"
    assert codes(after_the_other(tmp_path, saved, "sys.exit(64)")) == 64


def test_elsewhere_the_first_that_failed_decides():
    script = "rank == 3 and time.sleep(60)\nsys.exit([0, 0, 65, 0][rank])"
    assert codes(script, nodes=2, node_rank=1) == 65


def test_the_signal_that_killed_one_is_told_and_the_others_do_not_stay():
    began = time.monotonic()
    for killed in (0, 1):
        script = f"rank == {killed} and os.kill(os.getpid(), 9)\ntime.sleep(60)"
        assert codes(script) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 20


def test_one_that_does_not_listen_is_killed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    began = time.monotonic()
    assert codes(after_the_other(tmp_path, "signal.SIG_IGN", "sys.exit(65)")) == 65
    assert time.monotonic() - began < 20


@pytest.mark.kill
def test_a_signal_reaches_all_and_a_killed_launcher_leaves_nobody(tmp_path: Path):
    script = (
        "import os, pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\n"
        f"pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )

    def started() -> "tuple[subprocess.Popen[bytes], list[int]]":
        for file in tmp_path.iterdir():
            file.unlink()
        command = [sys.executable, "-c", LAUNCH, sys.executable, "-c", script]
        launcher = subprocess.Popen(command)
        while not all((tmp_path / n).exists() and (tmp_path / n).read_text() for n in ("0", "1")):
            assert launcher.poll() is None
            time.sleep(0.02)
        return launcher, [int((tmp_path / n).read_text()) for n in ("0", "1")]

    launcher, _ = started()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=30) == 85

    launcher, children = started()
    launcher.kill()
    launcher.wait(timeout=30)
    wait_for(lambda: not any(_alive(child) for child in children))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(processes=3), "3 processes; their number must be a power of two"),
        (Place(nodes=2, node_rank=2, master_addr="a"), "--node-rank is 2; of 2 nodes it is 0 to 1"),
        (Place(nodes=2), "--master-addr is '127.0.0.1'; 2 nodes need"),
        (Place(nodes=0), "both must be 1 or more"),
    ],
)
def test_places_that_cannot_be_are_told(place: Place, words: str):
    with pytest.raises(ConfigurationError, match=words):
        place.check()


def test_flags_that_cannot_be_are_one_line(capsys):
    assert main(["--processes-per-node", "many"]) == 64
    assert "--processes-per-node: 'many' is not a whole number" in capsys.readouterr().err


def test_nothing_is_launched_inside_what_was_launched():
    inside = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    assert launch.needed(Place(processes=2), {})
    assert not launch.needed(Place(processes=2), inside)
    assert not launch.needed(Place(), {"NODE_RANK": "0"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
@pytest.mark.kill
def test_two_nodes_stop_together_and_one_alone_goes_on(site: Site):
    """The real job on two "machines" of this one: SIGTERM to one of them is 85 in both."""
    site.write({"0": 40, "1": 40})
    tuned = ("fit.epochs=200", "fit.freeze=0.5", "fit.batch_size=8", "fit.slices=2")
    settings = [part for setting in (*PROBE, *tuned) for part in ("--set", setting)]
    flags = ["--store", site.url, "--dataset", "digits", "--model", "reader", *settings]
    command = [sys.executable, "-m", "visionloop_training", *flags, "--checkpoint-seconds=1e-3"]
    environment = {
        **os.environ,
        "VISIONLOOP_NODES": "2",
        "MASTER_ADDR": "127.0.0.2",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    nodes = [
        subprocess.Popen(
            [*command, "--cache", str(site.folder / f"cache-{rank}")],
            env={**environment, "JOB_COMPLETION_INDEX": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = ""
    for line in nodes[0].stderr:
        said += line
        if "checkpoint of step" in line:
            break
    nodes[1].send_signal(signal.SIGTERM)
    rest = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [85, 85], said + rest[0] + rest[1]
    assert "run the same command again" in rest[0]
    assert "Traceback" not in rest[0] + rest[1]


@pytest.mark.long
def test_all_processes_end_with_the_leading_ones_refusal(site: Site, capfd):
    """What only the leader asks (which snapshot) ends the others at once, with its code."""
    site.write({"0": 10, "1": 10})
    settings = [part for setting in (*PROBE, "fit.slices=2") for part in ("--set", setting)]
    flags = ["--store", site.url, "--dataset", "nothing", "--model", "reader", *settings]
    began = time.monotonic()
    assert main([*flags, "--processes-per-node", "2", "--cache", str(site.folder / "c")]) == 66
    said = capfd.readouterr().err
    assert said.count("dataset 'nothing' has no snapshot yet") == 1
    assert "Traceback" not in said
    assert time.monotonic() - began < 60
