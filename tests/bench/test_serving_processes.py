"""Counting what a server costs: real processes that burn, fork, daemonise and end."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import wait_for

from bench.serving.processes import Program, machine_cpu, members, parse_stat, usage

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"


def start(tmp_path: Path, code: str) -> Program:
    """Runs the code, which makes the file `done` and then waits."""
    file = tmp_path / "program.py"
    file.write_text(code + f"\nopen({str(tmp_path / 'done')!r}, 'w').close()\ntime.sleep(600)\n")
    program = Program([sys.executable, str(file)], tmp_path / "log")

    def done() -> bool:
        assert not program.ended, program.last_words()
        return (tmp_path / "done").exists()

    wait_for(done)
    return program


def test_cpu_of_a_living_and_of_an_ended_child_counts(tmp_path: Path) -> None:
    child = BURN.format(seconds=0.3)
    program = start(
        tmp_path,
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
        f"alive = subprocess.Popen([sys.executable, '-c', {child + 'time.sleep(600)'!r}])\n",
    )
    try:
        wait_for(lambda: program.usage().cpu >= 0.6)
        used = program.usage()
        assert used.processes == 2
        assert used.rss > usage(program.pid).rss / 2 > 1_000_000
    finally:
        program.stop()
    assert program.usage().processes == 0


def test_a_daemon_that_left_its_parent_still_counts_and_is_stopped(tmp_path: Path) -> None:
    program = start(
        tmp_path,
        "import subprocess, sys, time\n"
        "middle = 'import subprocess, sys; "
        'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\'\n'
        "subprocess.run([sys.executable, '-c', middle], check=True)\n",
    )
    try:
        assert program.usage().processes == 2
    finally:
        program.stop()
    assert program.usage().processes == 0


def test_an_orphan_with_a_session_of_its_own_is_stopped(tmp_path: Path) -> None:
    program = start(
        tmp_path,
        "import subprocess, sys, time, signal\n"
        "orphan = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        f"open({str(tmp_path / 'orphan')!r}, 'w').write(str(orphan.pid))\n",
    )
    orphan = int((tmp_path / "orphan").read_text())
    assert program.usage().processes == 2
    program.stop()
    wait_for(lambda: not _runs(orphan), hint="the orphan's end")


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_the_tree_is_descendants_and_session() -> None:
    relations = {1: (0, 1), 10: (1, 10), 11: (10, 10), 12: (11, 12), 13: (1, 10), 20: (1, 20)}
    assert members(10, relations) == {10, 11, 12, 13}
    assert members(99, relations) == set()


def test_a_process_may_be_named_like_a_line_of_proc() -> None:
    line = "7 (a) b (c) S 3 4 5 0 -1 0 0 0 0 0 100 50 30 20 20 0 1 0 9 4096 25 0 0"
    parsed = parse_stat(line)
    assert (parsed.parent, parsed.session) == (3, 5)
    assert parsed.cpu > 0
    assert parsed.rss == 25 * 4096


def test_the_machines_work_includes_ours() -> None:
    before = machine_cpu()
    subprocess.run([sys.executable, "-c", BURN.format(seconds=0.2)], check=True)
    assert machine_cpu() - before >= 0.15


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "log")
    wait_for(lambda: program.ended)
    assert "no such model" in program.last_words()


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_silence_is_said_too(text: str, tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", f"print({text!r}, end='')"], tmp_path / "log")
    program.stop()
    assert program.last_words() == "it said nothing"
