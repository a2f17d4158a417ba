"""Small real model bundles: true ONNX graphs, real photographs, answers computed by onnxruntime.

    bundle = publish_bundle(ModelRepository(store), "cells", seed=1, promote=True)

The graph is what training exports, only smaller: uint8 NHWC in, cast and normalisation inside,
features by pooling, one linear layer, calibrated softmax; outputs logits, probabilities and
embedding. `seed` draws the weights, so versions with different seeds give different answers. Golden
images are crops of scikit-image's and scikit-learn's photographs, decoded by `visionloop.images`.
"""

import hashlib
import io
import json
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from visionloop.bundle import (
    BundleLabel,
    ClassificationBundle,
    GoldenSet,
    MultiLabelBundle,
    Provenance,
    TensorInput,
    TensorOutput,
)
from visionloop.calibration import (
    Calibration,
    LabelCalibration,
    LabelThresholds,
    Thresholds,
)
from visionloop.images import decode
from visionloop.preprocessing import Preprocessing, Resize
from visionloop.repository import ModelRepository, file_entry

SIDE = 32  # pixels of the graph's input
GRID = 4  # pooled features on each side
LABELS = ("cat", "coffee", "rocket")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TEMPERATURE = 1.7
NOT_SURE = 0.8
TOLERANCE = 1e-4
POISON = 255  # a trapped graph fails on an image whose first pixel is this red

Change = Callable[[Path], None]


@cache
def photographs() -> tuple[NDArray[np.uint8], ...]:
    """Real photographs, (height, width, 3) each, all from installed packages."""
    own = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
    own += [skimage.data.rocket()]
    return (*own, *sklearn.datasets.load_sample_images().images)


@cache
def encoded(index: int, *, size: int = 160, kind: str = "JPEG") -> bytes:
    """The index-th real image: a crop of a photograph, encoded. Different indices differ."""
    all_photographs = photographs()
    photograph = all_photographs[index % len(all_photographs)]
    random = np.random.default_rng(index)
    top = random.integers(0, photograph.shape[0] - size)
    left = random.integers(0, photograph.shape[1] - size)
    crop = Image.fromarray(photograph[top : top + size, left : left + size])
    output = io.BytesIO()
    crop.save(output, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return output.getvalue()


def preprocessing() -> Preprocessing:
    """What the bundles' graphs were made for."""
    return Preprocessing(
        steps=[Resize(height=SIDE, width=SIDE, interpolation="bilinear")], mean=MEAN, std=STD
    )


def graph(seed: int, *, trap: bool = False, hidden: int = 0) -> onnx.ModelProto:
    """The ONNX model. `trap` makes the run fail on a row whose first pixel has red = POISON.

    `hidden` adds a layer of that width, to make the graph slow or large.
    """
    random = np.random.default_rng(seed)
    features = 3 * GRID * GRID
    shape = [1, 1, 1, 3]
    constants: dict[str, NDArray[np.generic]] = {
        "mean": np.asarray(MEAN, np.float32).reshape(shape) * 255,
        "std": np.asarray(STD, np.float32).reshape(shape) * 255,
        "weight": random.normal(size=(hidden or features, len(LABELS))).astype(np.float32),
        "bias": random.normal(size=len(LABELS)).astype(np.float32),
        "temperature": np.asarray([TEMPERATURE], np.float32),
    }
    pool = SIDE // GRID
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("Transpose", ["normal"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["pooled"], kernel_shape=[pool, pool], strides=[pool, pool]
        ),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    last = "embedding"
    if hidden:
        scale = 1 / np.sqrt(features)
        constants["hidden_weight"] = (random.normal(size=(features, hidden)) * scale).astype(
            np.float32
        )
        constants["deep_weight"] = (random.normal(size=(hidden, hidden)) / np.sqrt(hidden)).astype(
            np.float32
        )
        constants["weight"] = (constants["weight"] / np.sqrt(hidden)).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", ["embedding", "hidden_weight"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["active"]),
            helper.make_node("MatMul", ["active", "deep_weight"], ["deep"]),
        ]
        last = "deep"
    nodes.append(helper.make_node("Gemm", [last, "weight", "bias"], ["raw_logits"]))
    if trap:
        # Looks up the first pixel's red in a table without a place for POISON.
        constants["zeros"] = np.zeros(POISON, np.float32)
        constants["first"] = np.asarray([0], np.int64)
        constants["ends"] = np.asarray([1], np.int64)
        constants["axes"] = np.asarray([1], np.int64)
        constants["axis_2"] = np.asarray([2], np.int64)
        constants["axis_3"] = np.asarray([3], np.int64)
        nodes += [
            helper.make_node("Slice", ["pixels", "first", "ends", "axes"], ["top"]),
            helper.make_node("Slice", ["top", "first", "ends", "axis_2"], ["corner"]),
            helper.make_node("Slice", ["corner", "first", "ends", "axis_3"], ["red"]),
            helper.make_node("Flatten", ["red"], ["red_column"]),
            helper.make_node("Cast", ["red_column"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["zeros", "index"], ["nothing"]),
            helper.make_node("Add", ["raw_logits", "nothing"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["raw_logits"], ["logits"]))
    nodes += [
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(LABELS)]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(LABELS)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", features]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(model: bytes, images: list[bytes]) -> dict[str, NDArray[np.float32]]:
    """What onnxruntime itself says of encoded images: the outputs by name, (n, …) each."""
    prepare = preprocessing()
    rows = np.stack([prepare(decode(image)) for image in images])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": rows}), strict=True))


def build_bundle(
    folder: Path,
    *,
    model: str = "cells",
    version: int = 1,
    seed: int | None = None,
    golden: int = 12,
    before_ready: int = 4,
    wrong_golden: int | None = None,
    trap: bool = False,
    hidden: int = 0,
    change: Change | None = None,
    run_id: str = "test",
    snapshot: str = "sha256-" + "0" * 64,
) -> ClassificationBundle:
    """Writes a bundle's files into `folder`; bundle.json is the repository's to write.

    `seed` defaults to the version. `wrong_golden` falsifies the expected answer of that golden
    image. `change` may alter the files before their digests are taken. `snapshot` of the dataset
    "test" is what it says it was trained on.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    data = graph(version if seed is None else seed, trap=trap, hidden=hidden).SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    images = [encoded(1000 + index) for index in range(golden)]
    expected = answers(data, images)["probabilities"].tolist()
    if wrong_golden is not None:
        expected[wrong_golden] = expected[wrong_golden][::-1]
    items = []
    for index, image in enumerate(images):
        name = f"golden/{hashlib.sha256(image).hexdigest()[:16]}-{index}.jpg"
        (folder / name).write_bytes(image)
        items.append({"file": name, "probabilities": expected[index]})
    (folder / "golden/golden.json").write_text(json.dumps(items))
    if change is not None:
        change(folder)
    files = {
        str(path.relative_to(folder)): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return ClassificationBundle(
        model=model,
        version=version,
        created=datetime.now(UTC),
        labels=[BundleLabel(id=name, name=name.title()) for name in LABELS],
        input=TensorInput(name="pixels", height=SIDE, width=SIDE),
        preprocessing=preprocessing(),
        outputs=[
            TensorOutput(name="logits", kind="logits", shape=[len(LABELS)]),
            TensorOutput(name="probabilities", kind="probabilities", shape=[len(LABELS)]),
            TensorOutput(name="embedding", kind="embedding", shape=[3 * GRID * GRID]),
        ],
        calibration=Calibration(temperature=TEMPERATURE, ece_before=0.1, ece_after=0.05),
        thresholds=Thresholds(not_sure=NOT_SURE),
        golden=GoldenSet(
            file="golden/golden.json",
            items=golden,
            before_ready=before_ready,
            max_probability_difference={"default": TOLERANCE},
        ),
        metrics={"accuracy": 0.9},
        provenance=Provenance(
            dataset="test",
            snapshot=snapshot,
            parent_version=version - 1 or None,
            run_id=run_id,
            code_version="test",
            seed=version,
            backbone="pooled",
            backbone_sha256=None,
            config={},
            libraries={"onnxruntime": onnxruntime.__version__},
        ),
        files=files,
    )


def of_several(single: ClassificationBundle) -> MultiLabelBundle:
    """The same model as one of any number of classes; thresholds 0.3, 0.5 and 0.9."""
    return MultiLabelBundle(
        **single.model_dump(exclude={"task", "calibration", "thresholds"}),
        calibration=LabelCalibration(
            temperatures=[1.0, 2.0, 0.5], biases=[0.0, -1.0, 0.2], ece_before=0.2, ece_after=0.1
        ),
        thresholds=LabelThresholds(method="max_f1", present=[0.3, 0.5, 0.9]),
    )


def publish_bundle(
    repository: ModelRepository, model: str = "cells", *, promote: bool = False, **options: Any
) -> ClassificationBundle:
    """Builds a bundle (`options` as for build_bundle) under the next free version number and
    publishes it; with `promote` it becomes stable."""
    run_id = f"test-{uuid.uuid4().hex}"
    version = repository.claim(model, run_id)
    with tempfile.TemporaryDirectory() as folder:
        bundle = build_bundle(Path(folder), model=model, version=version, run_id=run_id, **options)
        repository.publish(bundle, Path(folder))
    if promote:
        promote_version(repository, version, model=model)
    return bundle


def promote_version(repository: ModelRepository, version: int, *, model: str = "cells") -> None:
    """Moves the stable alias."""
    repository.promote(
        model, version, expected=repository.aliases(model), who="a test", why="to see it served"
    )
