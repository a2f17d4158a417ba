"""`visionloop models add` and `canary`, as processes, against both stores."""

import json
import os
import signal
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support import onnx_graphs
from support.bundles import publish_bundle
from support.command_line import command, environment, result, visionloop
from support.waiting import wait_for

from visionloop.bundle import TensorsBundle
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository


def saved(folder: Path, proto: onnx.ModelProto, name: str = "graph.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def local(tmp_path: Path) -> str:
    """The URL of an empty store in a folder."""
    (tmp_path / "local").mkdir()
    return (tmp_path / "local").as_uri()


class TestAdd:
    def test_a_file_becomes_a_version(self, store_url: str, tmp_path: Path) -> None:
        open_store(store_url)
        path = saved(tmp_path, onnx_graphs.tiny(), "my graph.onnx")
        said = result("models", "add", path, "--model", "tiny", "--who", "me", "--store", store_url)
        assert (said["new"], said["move"]) == (True, None)
        repository = ModelRepository(open_store(store_url))
        bundle = repository.fetch("tiny", 1, tmp_path / "fetched")
        assert isinstance(bundle, TensorsBundle)
        assert bundle.model_dump(mode="json") == said["bundle"]
        assert (tmp_path / "fetched" / bundle.graph).read_bytes() == path.read_bytes()
        assert (bundle.source.file, bundle.source.who) == ("my graph.onnx", "me")
        assert bundle.source.why == "added my graph.onnx"
        assert repository.aliases("tiny").aliases.stable is None

    def test_promotion_and_the_next_version(self, store_url: str, tmp_path: Path) -> None:
        open_store(store_url)
        flags = ("--model", "tiny", "--promote", "--store", store_url)
        first = saved(tmp_path, onnx_graphs.tiny(), "first.onnx")
        second = saved(tmp_path, onnx_graphs.tiny(scale=3), "second.onnx")
        assert result("models", "add", first, *flags)["move"]["version"] == 1
        move = result("models", "add", second, *flags, "--why", "a better scale")["move"]
        assert (move["version"], move["previous"], move["why"]) == (2, 1, "a better scale")
        back = result("models", "rollback", "tiny", "--why", "worse", "--store", store_url)
        assert back["version"] == 1

    def test_the_same_file_again_is_the_same_version(self, local: str, tmp_path: Path) -> None:
        path = saved(tmp_path, onnx_graphs.tiny())
        flags = ("--model", "tiny", "--store", local)
        assert result("models", "add", path, *flags)["new"] is True
        again = result("models", "add", path, *flags, "--promote")
        assert (again["new"], again["bundle"]["version"]) == (False, 1)
        assert again["move"]["version"] == 1
        assert "the same file was added before" in visionloop("models", "add", path, *flags)
        labels = tmp_path / "labels.txt"
        labels.write_text("a\nb\nc\nd\n")
        other = result("models", "add", path, *flags, "--labels", labels)
        assert (other["new"], other["bundle"]["version"]) == (True, 2)

    def test_killed_before_the_version_appears_it_goes_on(
        self, store_url: str, tmp_path: Path
    ) -> None:
        repository = ModelRepository(open_store(store_url))
        path = saved(tmp_path, onnx_graphs.tiny())
        arguments = ("models", "add", path, "--model", "tiny", "--store", store_url)
        killed = subprocess.run(
            command(*arguments),
            capture_output=True,
            timeout=120,
            env=environment() | {"VISIONLOOP_FAILPOINT": "publish.files_uploaded"},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert repository.versions("tiny") == []
        assert result(*arguments)["bundle"]["version"] == 1
        assert repository.versions("tiny") == [1]

    def test_two_at_once_publish_one_version(self, store_url: str, tmp_path: Path) -> None:
        repository = ModelRepository(open_store(store_url))
        path = saved(tmp_path, onnx_graphs.tiny())
        arguments = ("models", "add", path, "--model", "tiny", "--store", store_url, "--json")
        both = [
            subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, env=environment())
            for _ in range(2)
        ]
        said = [json.loads(process.communicate(timeout=120)[0]) for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sorted(one["new"] for one in said) == [False, True]
        assert said[0]["bundle"] == said[1]["bundle"]
        assert repository.versions("tiny") == [1]

    def test_labels(self, local: str, tmp_path: Path) -> None:
        path = saved(tmp_path, onnx_graphs.tiny())
        labels = tmp_path / "labels.txt"
        flags = ("--model", "tiny", "--labels", labels, "--store", local)
        labels.write_bytes("\ufeffcrane\nNähmaschine\r\ncrane\n  owl \n".encode())
        found = result("models", "add", path, *flags)["bundle"]["labels"]
        assert [label["name"] for label in found] == ["crane", "Nähmaschine", "crane", "owl"]
        assert [label["id"] for label in found] == [
            *("crane (0)", "Nähmaschine", "crane (2)", "owl"),
        ]
        for text, words in (
            ("a\nb\n", "there are 2 labels, but output 'y' has 4 elements"),
            ("a\n\nc\nd\n", "line 2 of"),
            ("", "is empty"),
            (b"\xff\xfe\n", "is not UTF-8"),
        ):
            labels.write_bytes(text if isinstance(text, bytes) else text.encode())
            assert words in visionloop("models", "add", path, *flags, code=64)
        # No number was spent on what was refused.
        assert [path.name for path in (tmp_path / "local/models/tiny/versions").iterdir()] == ["1"]
        labels.unlink()
        assert "labels.txt is not there" in visionloop("models", "add", path, *flags, code=66)

    def test_what_is_told_to_people(self, local: str, tmp_path: Path) -> None:
        said = visionloop(
            "models",
            "add",
            saved(tmp_path, onnx_graphs.free_axes()),
            *("--model", "free", "--why", "to see", "--store", local),
        )
        assert "free: version 1" in said
        assert "FP32 [n, *, *]" in said
        assert "visionloop models promote free 1" in said
        shown = visionloop("models", "show", "free", "1", "--store", local)
        assert "tensors" in shown
        assert "to see" in shown
        assert "graph.onnx" in visionloop("models", "list", "--store", local)

    def test_a_graph_that_runs_on_nothing_made_up_is_said(self, local: str, tmp_path: Path) -> None:
        graph = onnx_graphs.model(
            [onnx_graphs.node("Split", ["x", "sizes"], ["a", "b"])],
            [
                onnx_graphs.value("x", TensorProto.FLOAT, [5]),
                onnx_graphs.value("sizes", TensorProto.INT64, [2]),
            ],
            [
                onnx_graphs.value("a", TensorProto.FLOAT, ["i"]),
                onnx_graphs.value("b", TensorProto.FLOAT, ["j"]),
            ],
        )
        done = subprocess.run(
            command("models", "add", saved(tmp_path, graph), "--model", "m", "--store", local),
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(),
            check=False,
        )
        assert done.returncode == 0
        assert "warning: graph.onnx was not seen to run" in done.stderr

    @pytest.mark.parametrize(
        ("flags", "code", "words"),
        [
            (["nowhere.onnx", "--model", "m"], 66, "nowhere.onnx is not there"),
            ([".", "--model", "m"], 64, "is not a file"),
            (["text.onnx", "--model", "m"], 65, "text.onnx is not an ONNX file"),
            (["graph.onnx", "--model", "Bad Name"], 64, "model name 'Bad Name'"),
            (["graph.onnx"], 64, "--model"),
            (["foreign.onnx", "--model", "m"], 65, "com.example:Mul"),
            (["graph.onnx", "--model", "m", "--store", "file:///nowhere/x"], 66, "/nowhere/x"),
        ],
    )
    def test_mistakes_are_one_line_and_leave_nothing(
        self, local: str, tmp_path: Path, flags: list[str], code: int, words: str
    ) -> None:
        saved(tmp_path, onnx_graphs.tiny())
        foreign = onnx_graphs.tiny()
        foreign.graph.node[0].domain = "com.example"
        saved(tmp_path, foreign, "foreign.onnx")
        (tmp_path / "text.onnx").write_text("no graph")
        store = [] if "--store" in flags else ["--store", local]
        assert words in visionloop("models", "add", *flags, *store, code=code, cwd=tmp_path)
        assert ModelRepository(open_store(local)).models() == []
        assert list(open_store(local).list()) == []

    def test_mistakes_are_json_for_machines(self, local: str, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_text("no graph")
        flags = ("--model", "m", "--store", local, "--json")
        said = visionloop("models", "add", tmp_path / "text.onnx", *flags, code=65)
        assert json.loads(said)["error"]["reason"] == "corrupt"

    def test_a_graph_that_crashes_the_runtime_is_refused(self, local: str, tmp_path: Path) -> None:
        process = started(tmp_path, local)
        os.kill(describing(process), signal.SIGSEGV)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 65, said
        assert "graph.onnx brought down the program that tried to load and run it" in said
        assert "(SIGSEGV)" in said
        assert len(said.strip().splitlines()) == 1
        assert list(open_store(local).list()) == []

    def test_interrupted_it_leaves_nothing(self, local: str, tmp_path: Path) -> None:
        process = started(tmp_path, local)
        child = describing(process)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "")
        assert not Path(f"/proc/{child}").exists()
        assert list(open_store(local).list()) == []


def started(folder: Path, store: str) -> "subprocess.Popen[str]":
    """`models add` of a graph that never ends."""
    return subprocess.Popen(
        command("models", "add", saved(folder, endless()), "--model", "m", "--store", store),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def describing(process: "subprocess.Popen[str]") -> int:
    """The process that looks at the graph, once its runtime is running it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def found() -> int | None:
        assert process.poll() is None, f"no process describes the graph: {process.communicate()}"
        for child in children.read_text().split():
            if "onnxruntime" in Path(f"/proc/{child}/maps").read_text():
                return int(child)
        return None

    return wait_for(found)


def endless() -> onnx.ModelProto:
    """y = x + 1 + 1 + …, for 2⁶² rounds."""
    body = helper.make_graph(
        [
            onnx_graphs.node("Identity", ["go"], ["go_on"]),
            onnx_graphs.node("Add", ["state", "one"], ["next"]),
        ],
        "body",
        [
            onnx_graphs.value("round", TensorProto.INT64, []),
            onnx_graphs.value("go", TensorProto.BOOL, []),
            onnx_graphs.value("state", TensorProto.FLOAT, None),
        ],
        [
            onnx_graphs.value("go_on", TensorProto.BOOL, []),
            onnx_graphs.value("next", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    graph = helper.make_graph(
        [onnx_graphs.node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        "endless",
        [onnx_graphs.value("x", TensorProto.FLOAT, ["n", 1])],
        [onnx_graphs.value("y", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("rounds", TensorProto.INT64, [], [2**62])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class TestCanary:
    def test_set_show_end(self, store_url: str) -> None:
        repository = ModelRepository(open_store(store_url))
        publish_bundle(repository, "cells", seed=1, promote=True)
        onnx_graphs.publish_graph(repository, onnx_graphs.tiny(), model="cells", promote=False)
        store = ("--store", store_url)
        move = result("models", "canary", "cells", "2", "--percent", "2.5", "--why", "try", *store)
        assert (move["alias"], move["version"], move["percent"]) == ("canary", 2, 2.5)
        rows = {row["version"]: row for row in result("models", "list", *store)}
        assert (rows[1]["alias"], rows[2]["alias"]) == ("stable", "canary 2.5 %")
        assert (rows[1]["task"], rows[2]["task"]) == ("classification", "tensors")
        shown = visionloop("models", "show", "cells", "canary", *store)
        assert "canary 2.5 %" in shown
        assert "2 (2.5 %)" in shown
        ended = visionloop("models", "canary", "cells", "--end", "--why", "enough", *store)
        assert ended == "cells: canary ended (was 2)\n"
        visionloop("models", "canary", "cells", "2", "--percent", "50", "--why", "more", *store)
        visionloop("models", "promote", "cells", "2", "--why", "it is good", *store)
        aliases = repository.aliases("cells").aliases
        assert (aliases.stable, aliases.canary) == (2, None)

    @pytest.mark.parametrize(
        ("flags", "code", "words"),
        [
            (["2"], 64, "--percent P"),
            (["--percent", "5"], 64, "--percent P"),
            (["2", "--percent", "5", "--end"], 64, "--end takes no version"),
            (["2", "--percent", "0"], 64, "percent is 0"),
            (["2", "--percent", "100"], 64, "promote the version"),
            (["2", "--percent", "nan"], 64, "percent is nan"),
            (["2", "--percent", "5%"], 64, "invalid float value: '5%'"),
            (["1", "--percent", "5"], 65, "is stable already"),
            (["9", "--percent", "5"], 66, "no version 9; there are: 1, 2"),
            (["--end"], 65, "no canary version that could be ended"),
            (["2", "--percent", "5", "--why", " "], 64, "--why is empty"),
        ],
    )
    def test_mistakes(self, two_versions: str, flags: list[str], code: int, words: str) -> None:
        why = [] if "--why" in flags else ["--why", "a test"]
        said = visionloop(
            "models", "canary", "tiny", *flags, *why, "--store", two_versions, code=code
        )
        assert words in said
        assert ModelRepository(open_store(two_versions)).aliases("tiny").aliases.canary is None

    def test_an_altered_version_is_not_made_canary(self, local: str, tmp_path: Path) -> None:
        repository = ModelRepository(open_store(local))
        onnx_graphs.publish_graph(repository, onnx_graphs.tiny())
        onnx_graphs.publish_graph(repository, onnx_graphs.tiny(scale=3), promote=False)
        graph = tmp_path / "local/models/tiny/versions/2/model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")
        flags = ("--percent", "5", "--why", "x", "--store", local)
        assert "model.onnx" in visionloop("models", "canary", "tiny", "2", *flags, code=65)


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a model of two versions, the first one stable."""
    url = tmp_path_factory.mktemp("two").as_uri()
    repository = ModelRepository(open_store(url))
    onnx_graphs.publish_graph(repository, onnx_graphs.tiny())
    onnx_graphs.publish_graph(repository, onnx_graphs.tiny(scale=3), promote=False)
    return url
