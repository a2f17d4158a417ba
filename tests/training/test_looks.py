"""Which versions of a model count as looks at a test split."""

from pathlib import Path

from support import onnx_graphs
from support.bundles import publish_bundle

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.version_numbers import VersionNumbers
from visionloop_training.looks import Judgement, earlier_looks


def test_only_classifiers_of_the_dataset_that_can_be_read_are_looks(tmp_path: Path):
    store = open_store(f"file://{tmp_path}")
    repository = ModelRepository(store)
    first, second, torn = (publish_bundle(repository, golden=4) for _ in range(3))
    onnx_graphs.publish_graph(repository, onnx_graphs.tiny(), model="cells", promote=False)
    store.put(f"{VersionNumbers(store, 'cells').folder(torn.version)}bundle.json", b"{")
    assert repository.versions("cells") == [1, 2, 3, 4]

    def looks(graph: str, against: int | None, dataset: str = "test") -> list[int]:
        return earlier_looks(repository, "cells", dataset, Judgement(graph, against))

    graphs = [bundle.files[bundle.graph].sha256 for bundle in (first, second)]
    assert looks("another", None) == [1, 2]
    assert looks("another", None, dataset="other") == []
    assert looks(graphs[0], None) == [2]  # the first one was judged so
    assert looks(graphs[1], 1) == [1]
    assert looks(graphs[1], 2) == [1, 2]
