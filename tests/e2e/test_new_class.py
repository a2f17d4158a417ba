"""A correction to a class that is newer than the version it corrects, through the real programs.

An app names the class, inference stores what it cannot know, labeling-ingest labels the image or
keeps the feedback until the class is there. Nothing of it is lost.
"""

import hashlib
from pathlib import Path

from support.bundles import LABELS, encoded, publish_bundle
from support.inference_server import running_server
from support.labeling_server import running_labeling
from support.labelling_page import Site

from visionloop.client import Client
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

DATASET = "test"  # the one that the test bundles say they were trained on


def test_a_correction_to_a_class_that_no_version_knows_becomes_a_label(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    publish_bundle(ModelRepository(open_store(store)), "cells", golden=4, promote=True)
    with (
        running_server(tmp_path / "inference", store) as inference,
        running_labeling(tmp_path / "labeling", store=store) as labeling,
        Client(inference.ready().target, timeout=60) as app,
    ):
        site = Site(labeling, DATASET, "classification", list(LABELS))
        site.ask("POST", f"{site.root}/classes", {"name": "hot-spot"})  # since the training
        known, unknown = encoded(31), encoded(32)
        for image, class_id in ((known, "hot-spot"), (unknown, "snail-track")):
            [result] = app.recognize(image)
            receipt = app.submit_feedback(result, class_id=class_id, image=image)
            assert receipt.created
            assert receipt.unknown_class_ids == (class_id,)
        labeling.wait(lambda: site.ask("GET", "/v1/feedback/refused")["items"])
        [refused] = site.ask("GET", "/v1/feedback/refused")["items"]
        assert (refused["reason"], refused["shown"]) == ("unknown_class", ["snail-track"])
        labeling.wait(lambda: not list(open_store(store).list("inbox/feedback/")))
        assert site.classes(hashlib.sha256(known).hexdigest()) == ["hot-spot"]
        site.ask("POST", f"{site.root}/classes", {"name": "snail-track"})
        taken = site.ask("POST", "/v1/feedback/refused/retry")
        assert taken == {"taken": 1, "left": 0, "next": None}
        assert site.classes(hashlib.sha256(unknown).hexdigest()) == ["snail-track"]
