"""What stands on the wire, and a real call for each thing that only HTTP had."""

import zipfile
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from support.labeling_server import running_labeling
from support.pictures import noise

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop.labeling_client import DatasetSettings as Wanted
from visionloop.labeling_client import LabelingClient, SubmitImage
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling.datasets import DatasetSettings, DatasetSummary
from visionloop_labeling.grpc_messages import dataset_message, format_named, settings_of
from visionloop_labeling.splits import SplitRatios


@pytest.mark.parametrize(
    "settings",
    [
        DatasetSettings(),
        DatasetSettings(
            task="detection",
            ratios=SplitRatios(train=0.5, val=0.25, test=0.25),
            train_on_app_labels=False,
            train_on_model_labels=True,
        ),
    ],
)
def test_settings_survive_the_wire(settings: DatasetSettings) -> None:
    summary = DatasetSummary("d", [], 0, 0, datetime.now(UTC), settings)
    sent = pb.Dataset.FromString(dataset_message(summary).SerializeToString())
    assert settings_of(sent.settings) == settings


def test_what_is_left_open_has_its_default() -> None:
    assert settings_of(pb.DatasetSettings()) == DatasetSettings()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.DatasetSettings(task=77), "settings.task"),
        (pb.DatasetSettings(ratios=pb.SplitRatios(train=0.5)), "settings.ratios"),
        (pb.DatasetSettings(ratios=pb.SplitRatios(train=2, val=-1)), "settings.ratios.train"),
    ],
)
def test_wrong_settings_are_named(message: pb.DatasetSettings, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        settings_of(message)
    assert caught.value.field == field


def test_formats() -> None:
    assert [format_named(number) for number in range(5)] == [
        *("csv", "csv", "coco", "yolo"),
        "folder",
    ]
    assert format_named(9) == "9"


def test_over_the_wire(tmp_path: Path) -> None:
    with (
        running_labeling(tmp_path) as server,
        LabelingClient(server.grpc_address) as client,
    ):
        settings = Wanted("classification", (0.5, 0.25, 0.25), train_on_model_labels=True)
        made = client.create_dataset("cells", settings)
        assert made.settings == settings
        with pytest.raises(ConflictError, match="other settings"):
            client.create_dataset("cells", Wanted())
        rows = [
            SubmitImage("cells", "b", n, noise(n), "ab"[n % 2], author_kind="human")
            for n in range(8)
        ]
        digests = [receipt.sha256 for receipt in client.submit_images(rows)]
        client.submit_label("cells", digests[0], "c", author_kind="app")
        labels = {label.sha256: label for label in client.export_labels("cells")}
        assert [labels[digest].disputed for digest in digests] == [True] + [False] * 7
        assert [labels[digest].sequence for digest in digests] == list(range(1, 9))
        snapshot = client.create_snapshot("cells")
        assert (snapshot.groups, snapshot.largest_group) == (8, 1)
        assert snapshot.left_out["retracted"] == 0
        archive = b"".join(client.export("cells", "folder", snapshot=snapshot.id[:20]))
        names = zipfile.ZipFile(BytesIO(archive)).namelist()
        assert {name[-68:-4] for name in names if name.endswith(".png")} == set(digests)
        with pytest.raises(NotFoundError, match="no snapshot"):
            list(client.export("cells", "csv", snapshot="ffff"))
