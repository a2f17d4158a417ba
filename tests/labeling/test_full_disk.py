"""The disk of store and database takes no more: callers get a typed error, what is there is served,
and the service is well again by itself when there is room."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.labeling_server import LabelingServer, running_labeling
from support.pictures import noise
from support.small_disk import SmallDisk, small_disk
from support.waiting import PATIENCE

from visionloop.proto.v1 import labeling_pb2 as pb

ACCEPTED = pb.SubmitImageReceipt.ACCEPTED


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "16m") as made:
        yield made


def rows(dataset: str, *ordinals: int) -> list[pb.SubmitImageRequest]:
    return [
        pb.SubmitImageRequest(
            dataset=dataset,
            batch="b",
            ordinal=ordinal,
            image=noise(ordinal),
            author_kind=pb.AUTHOR_KIND_IMPORT,
            label=pb.Label(class_name="a"),
        )
        for ordinal in ordinals
    ]


def outcomes(server: LabelingServer, *sent: pb.SubmitImageRequest) -> list[int]:
    return [receipt.outcome for receipt in server.submit(sent)]


def refused(call: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        call()  # type: ignore[operator]
    return error.value


def test_a_full_disk(disk: SmallDisk, tmp_path: Path) -> None:
    places = {
        "store": (disk.folder / "store").as_uri(),
        "database": f"sqlite:///{disk.folder / 'labeling.db'}",
    }
    with running_labeling(tmp_path / "server", TMPDIR=str(disk.folder), **places) as server:
        dataset = server.create_dataset("cells").name
        assert outcomes(server, *rows(dataset, 0, 1)) == [ACCEPTED] * 2
        disk.fill(server.process.pid)
        for call in (
            lambda: server.submit(rows(dataset, 2, 3)),
            lambda: server.stub.CreateSnapshot(
                pb.CreateSnapshotRequest(dataset=dataset), timeout=PATIENCE
            ),
        ):
            error = refused(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            assert error.details()
        known = [one.name for one in server.stub.ListDatasets(pb.ListDatasetsRequest()).datasets]
        assert known == [dataset]
        exported = list(server.stub.ExportLabels(pb.ExportLabelsRequest(dataset=dataset)))
        assert len(exported) == 2
        assert server.get("/")[0] == 200
        assert "Traceback" not in server.log.read_text()
        disk.empty()
        assert outcomes(server, *rows(dataset, 2, 3)) == [ACCEPTED] * 2
        assert outcomes(server, *rows(dataset, 0)) == [ACCEPTED]  # as it was answered
        assert server.process.poll() is None
