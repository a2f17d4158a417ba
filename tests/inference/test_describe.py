"""What is found out about ONNX files: signatures, batching by proof, refusals in words."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from support import onnx_graphs
from support.onnx_graphs import model, node, value

from visionloop.bundle import WarmUp
from visionloop.bundle_files import file_entry
from visionloop.errors import CorruptError, InvalidInputError, NotFoundError, RefusedError
from visionloop.graph_file import Description
from visionloop.signature import DatatypeName, TensorSpec
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.describe import describe

FLOAT = TensorProto.FLOAT
INDEPENDENT = "different rows answer together as each does alone"


@pytest.fixture
def found(tmp_path: Path) -> Any:
    """describe() of a ModelProto."""

    def call(proto: onnx.ModelProto) -> Description:
        return describe(saved(tmp_path, proto))

    return call


def saved(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "graph.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_the_datatypes_of_bundles_are_those_that_are_served() -> None:
    assert set(get_args(DatatypeName)) == set(DATATYPES)


class TestBatched:
    def test_rows(self, tmp_path: Path) -> None:
        path = saved(tmp_path, onnx_graphs.tiny())
        description = describe(path)
        assert description.file == file_entry(path)
        assert description.producer == "visionloop-tests"
        assert description.signature.batched
        assert description.signature.inputs == (TensorSpec(name="x", datatype="FP32", shape=[4]),)
        assert description.signature.outputs == (TensorSpec(name="y", datatype="FP32", shape=[4]),)
        assert description.batching.endswith(INDEPENDENT)
        assert description.warm_up == WarmUp(shapes=[[4]], value=0, finite=True)

    def test_several_tensors_with_odd_names(self, found: Any) -> None:
        signature = found(onnx_graphs.two_inputs()).signature
        assert signature.batched
        assert [spec.name for spec in signature.inputs] == ["in/a:0", "in b"]
        assert [spec.name for spec in signature.outputs] == ["sum (a+b)", "différence"]
        assert {spec.datatype for spec in (*signature.inputs, *signature.outputs)} == {"INT32"}

    @pytest.mark.parametrize("datatype", sorted(DATATYPES))
    def test_every_datatype(self, found: Any, datatype: str) -> None:
        kinds = {"BOOL": "BOOL", "FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}
        kinds |= {"BF16": "BFLOAT16", "BYTES": "STRING"}
        kind = TensorProto.DataType.Value(kinds.get(datatype, datatype))
        description = found(onnx_graphs.typed(kind))
        assert [spec.datatype for spec in description.signature.inputs] == [datatype]
        assert [spec.datatype for spec in description.signature.outputs] == [datatype]
        assert description.signature.batched
        assert description.batching.endswith(INDEPENDENT)

    def test_free_sizes(self, found: Any) -> None:
        description = found(onnx_graphs.free_axes())
        assert [spec.shape for spec in description.signature.inputs] == [[-1, -1]]
        assert [spec.shape for spec in description.signature.outputs] == [[], [-1, -1]]
        assert description.warm_up == WarmUp(shapes=[[1, 1]], value=0, finite=True)

    def test_free_sizes_are_filled_in_until_it_runs(self, found: Any) -> None:
        convolution = model(
            [node("Conv", ["x", "w"], ["y"])],
            [value("x", FLOAT, ["n", "c", "h", "w"])],
            [value("y", FLOAT, ["n", 2, "h2", "w2"])],
            {"w": np.ones((2, 3, 5, 5), np.float32)},
        )
        description = found(convolution)
        assert description.signature.batched
        assert description.warm_up == WarmUp(shapes=[[3, 8, 8]], value=0, finite=True)
        assert description.signature.outputs[0].shape == [2, -1, -1]

    def test_what_it_gives_counts_more_than_what_it_declares(self, found: Any) -> None:
        graph = onnx_graphs.tiny()
        graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1  # a frequent mistake
        description = found(graph)
        assert description.signature.batched
        assert description.signature.outputs[0].shape == [4]
        graph.graph.output[0].type.tensor_type.ClearField("shape")
        assert len(found(graph).signature.outputs[0].shape) == 1

    def test_ones_where_zeros_fail(self, found: Any) -> None:
        division = model(
            [node("Div", ["a", "b"], ["y"])],
            [value("a", TensorProto.INT32, ["n", 2]), value("b", TensorProto.INT32, ["n", 2])],
            [value("y", TensorProto.INT32, ["n", 2])],
        )
        description = found(division)
        assert description.warm_up == WarmUp(shapes=[[2], [2]], value=1, finite=True)
        assert description.signature.batched
        assert "division by zero" in description.batching

    def test_initializers_that_are_listed_as_inputs_are_none(self, found: Any) -> None:
        graph = onnx_graphs.tiny()
        graph.ir_version = 3  # as old exporters did, and had to
        graph.graph.input.append(value("scale", FLOAT, [1]))
        assert [spec.name for spec in found(graph).signature.inputs] == ["x"]

    def test_random_answers_are_not_compared(self, found: Any) -> None:
        graph = model(
            [node("RandomNormalLike", ["x"], ["y"])],
            [value("x", FLOAT, ["n", 4])],
            [value("y", FLOAT, ["n", 4])],
        )
        description = found(graph)
        assert description.signature.batched
        assert "its answers are random" in description.batching

    @pytest.mark.parametrize(("coupling", "batched"), [(1.5e-6, True), (3e-5, False)])
    def test_what_rounding_may_do_is_no_dependence(
        self, found: Any, coupling: float, batched: bool
    ) -> None:
        """As kernels that add up in another order beside other rows: 0.3 % of the classes turn over
        in the first case, 6 % in the second, which is no rounding any more."""
        graph = model(
            [
                node("ReduceSum", ["x"], ["all"], keepdims=0),
                node("Mul", ["all", "coupling"], ["noise"]),
                node("Mul", ["x", "four"], ["scaled"]),
                node("Add", ["scaled", "noise"], ["y"]),
                node("Floor", ["y"], ["floor"]),
                node("Cast", ["floor"], ["classes"], to=TensorProto.INT64),
            ],
            [value("x", FLOAT, ["n", 2048])],
            [value("classes", TensorProto.INT64, ["n", 2048])],
            {"coupling": np.float32(coupling), "four": np.float32([4])},
        )
        assert found(graph).signature.batched == batched

    def test_nan_is_an_answer(self, found: Any) -> None:
        graph = model(
            [node("Div", ["x", "zero"], ["y"])],
            [value("x", FLOAT, ["n", 4])],
            [value("y", FLOAT, ["n", 4])],
            {"zero": np.float32([0])},
        )
        assert found(graph).batching.endswith(INDEPENDENT)


class TestNotBatched:
    @pytest.mark.parametrize(
        ("graph", "why"),
        [
            (onnx_graphs.no_batch(), "first dimension of input 'x' is always 2"),
            (onnx_graphs.fixed_batch(4), "first dimension of input 'x' is always 4"),
            (onnx_graphs.mixing(), "output 'share' of a row depends on the rows beside it"),
            (
                model(
                    [node("ReduceSum", ["x"], ["y"], keepdims=0)],
                    [value("x", FLOAT, ["n", 3])],
                    [value("y", FLOAT, [])],
                ),
                "output 'y' has the shape [] for 1 row",
            ),
            (
                model(
                    [node("Concat", ["x", "x"], ["y"], axis=0)],
                    [value("x", FLOAT, ["n", 3])],
                    [value("y", FLOAT, ["m", 3])],
                ),
                "output 'y' has the shape [2, 3] for 1 row",
            ),
            (
                model(
                    [node("Mul", ["x", "factor"], ["y"])],
                    [value("x", FLOAT, ["n", 3]), value("factor", FLOAT, [])],
                    [value("y", FLOAT, ["n", 3])],
                ),
                "input 'factor' is a scalar",
            ),
            (
                model(
                    [node("Add", ["x", "rows"], ["y"])],
                    [value("x", FLOAT, ["n", 3])],
                    [value("y", FLOAT, ["n", 3])],
                    {"rows": np.zeros((2, 3), np.float32)},
                ),
                "has the shape [2, 3] for 1 row",
            ),
            (
                model(
                    [node("Reshape", ["x", "shape"], ["y"])],
                    [value("x", FLOAT, ["n", 3])],
                    [value("y", FLOAT, ["m", 3])],
                    {"shape": np.int64([1, 3])},
                ),
                "it does not run on 2 rows at once",
            ),
        ],
    )
    def test_why(self, found: Any, graph: onnx.ModelProto, why: str) -> None:
        description = found(graph)
        assert not description.signature.batched
        assert description.batching.startswith("none: ")
        assert why in description.batching
        assert description.warm_up is not None

    def test_shapes_are_whole(self, found: Any) -> None:
        signature = found(onnx_graphs.no_batch()).signature
        assert [spec.shape for spec in signature.inputs] == [[2, 3], []]
        assert [spec.shape for spec in signature.outputs] == [[2, 3]]
        mixing = found(onnx_graphs.mixing())
        assert mixing.signature.inputs[0].shape == [-1, 3]
        assert mixing.warm_up == WarmUp(shapes=[[1, 3]], value=0, finite=True)

    def test_a_sequence_is_no_batch(self, found: Any) -> None:
        """A recurrent network over the first dimension passes every test of shapes."""
        random = np.random.default_rng(0)
        graph = model(
            [node("Unsqueeze", ["x", "one"], ["steps"]),
             node("RNN", ["steps", "w", "r"], ["all"], hidden_size=4),
             node("Squeeze", ["all", "axes"], ["y"])],
            [value("x", FLOAT, ["t", 3])],
            [value("y", FLOAT, ["t", 4])],
            {
                "one": np.int64([1]),
                "axes": np.int64([1, 2]),
                "w": random.normal(size=(1, 4, 3)).astype(np.float32),
                "r": random.normal(size=(1, 4, 4)).astype(np.float32),
            },
        )  # fmt: skip
        assert "'y' of a row depends on the rows beside it" in found(graph).batching

    def test_what_runs_on_nothing_made_up_is_kept_and_said(self, found: Any) -> None:
        graph = model(
            [node("Split", ["x", "sizes"], ["a", "b"])],
            [value("x", FLOAT, [5]), value("sizes", TensorProto.INT64, [2])],
            [value("a", FLOAT, ["i"]), value("b", FLOAT, ["j"])],
        )
        description = found(graph)
        assert description.warm_up is None
        assert not description.signature.batched
        assert description.batching.startswith("not known: it runs on no made-up input: ")
        assert [spec.shape for spec in description.signature.outputs] == [[-1], [-1]]


class TestRefused:
    def test_sequences_and_maps(self, found: Any) -> None:
        sequence = model(
            [node("SequenceConstruct", ["x", "x"], ["y"])],
            [value("x", FLOAT, ["n", 3])],
            [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
        )
        with pytest.raises(RefusedError, match=r"output 'y' is of the type seq\(tensor\(float\)\)"):
            found(sequence)
        classifier = Path(onnxruntime.__file__).with_name("datasets") / "logreg_iris.onnx"
        with pytest.raises(RefusedError, match="only tensors can be served"):
            describe(classifier)  # it gives a map of probabilities, as scikit-learn's exports do

    def test_types_that_the_protocol_lacks(self, found: Any) -> None:
        with pytest.raises(RefusedError, match=r"input 'x' is of the type tensor\(float8e4m3fn\)"):
            found(
                model(
                    [node("Cast", ["x"], ["y"], to=FLOAT)],
                    [value("x", TensorProto.FLOAT8E4M3FN, ["n", 3])],
                    [value("y", FLOAT, ["n", 3])],
                    opset=19,
                )
            )

    def test_external_data_and_foreign_operators(self, found: Any) -> None:
        graph = onnx_graphs.tiny()
        tensor = graph.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        with pytest.raises(RefusedError, match="external data"):
            found(graph)
        graph = onnx_graphs.tiny()
        graph.graph.node[0].domain = "com.example"
        with pytest.raises(RefusedError, match=r"com\.example:Mul"):
            found(graph)

    def test_shapes_that_hold_nothing_or_are_not_told(self, found: Any) -> None:
        graph = onnx_graphs.tiny()
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
        with pytest.raises(RefusedError):
            found(graph)
        graph = onnx_graphs.typed(FLOAT)
        graph.graph.input[0].type.tensor_type.ClearField("shape")
        with pytest.raises(RefusedError, match=r"'x' of graph\.onnx declares no shape"):
            found(graph)

    def test_a_graph_without_inputs(self, found: Any) -> None:
        graph = model(
            [node("Identity", ["c"], ["y"])], [], [value("y", FLOAT, [1])], {"c": np.float32([1])}
        )
        with pytest.raises(RefusedError, match="takes no inputs"):
            found(graph)

    def test_what_onnxruntime_does_not_load(self, found: Any) -> None:
        graph = onnx_graphs.tiny()
        graph.opset_import[0].version = 9999
        with pytest.raises(RefusedError, match=r"onnxruntime .* does not load graph\.onnx: "):
            found(graph)

    def test_other_files(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"nowhere\.onnx is not there"):
            describe(tmp_path / "nowhere.onnx")
        with pytest.raises(InvalidInputError, match="is not a file"):
            describe(tmp_path)
        with pytest.raises(InvalidInputError, match="is not a file"):
            describe(Path("/dev/zero"))
        with pytest.raises(
            InvalidInputError, match="cannot read /proc/self/mem: Input/output error"
        ):
            describe(Path("/proc/self/mem"))
        large = tmp_path / "large.onnx"
        with large.open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(RefusedError, match=r"large\.onnx has 2147483648 bytes"):
            describe(large)
        for data in (b"", b"PK\x03\x04 a zip", b"{}"):
            other = tmp_path / "other.onnx"
            other.write_bytes(data)
            with pytest.raises(CorruptError, match=r"other\.onnx is not an ONNX file"):
                describe(other)


class TestOperators:
    """ONNX's own conformance models: every operator, type and odd shape there is."""

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the cases' own arithmetic
    @pytest.mark.parametrize("free", [pytest.param(False, marks=pytest.mark.long), True])
    def test_all_are_described_or_refused_in_words(self, tmp_path: Path, free: bool) -> None:
        path = tmp_path / "graph.onnx"
        outcomes: Counter[str] = Counter()
        words: list[str] = []
        for case in collect_testcases("")[int(free) :: 8]:
            if case.model is None:
                continue
            path.write_bytes(
                (with_free_rows(case.model) if free else case.model).SerializeToString()
            )
            try:
                found = describe(path)
            except RefusedError as error:
                words.append(str(error))
                continue
            outcomes["batched" if found.signature.batched else "whole"] += 1
            if found.signature.batched:
                assert found.warm_up is not None, case.name
        assert outcomes["whole"] > 50
        assert len(words) > 20  # operators and types that onnxruntime lacks
        assert not [text for text in words if "\n" in text or not text]
        assert (outcomes["batched"] > 30) == free


def with_free_rows(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a free first dimension of all inputs and outputs that are tensors."""
    freed = onnx.ModelProto()
    freed.CopyFrom(proto)
    for spec in (*freed.graph.input, *freed.graph.output):
        shape = spec.type.tensor_type.shape
        if spec.type.HasField("tensor_type") and shape.dim:
            shape.dim[0].dim_param = "n"
    return freed


class TestProgram:
    def run(self, *arguments: str | Path) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "visionloop_inference.describe", *map(str, arguments)],
            capture_output=True,
            timeout=120,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.stderr == b""
        return done.returncode, json.loads(done.stdout)

    def test_one_document(self, tmp_path: Path) -> None:
        path = saved(tmp_path, onnx_graphs.strings())
        code, said = self.run(path)
        assert code == 0
        assert Description.model_validate(said) == describe(path)

    def test_errors_are_told_as_json(self, tmp_path: Path) -> None:
        code, said = self.run(tmp_path / "nowhere.onnx")
        assert (code, said["error"]["reason"]) == (66, "not_found")
        code, said = self.run()
        assert (code, said["error"]["reason"]) == (64, "invalid_input")
