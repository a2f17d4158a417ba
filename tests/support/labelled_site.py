"""What people, apps and models say about the images of a site, by the ways each has."""

import sqlite3
import uuid
from datetime import UTC, datetime

from support.labelling_page import Site


def say(site: Site, sha256: str, *classes: str, **fields: object) -> dict[str, object]:
    event = {
        "event_id": str(uuid.uuid4()),
        "sha256": sha256,
        "kind": "label",
        "annotation": {"classes": list(classes)},
        **fields,
    }
    if event["kind"] != "label":
        del event["annotation"]
    return site.ask("POST", f"{site.root}/events", event)


def disagree(site: Site, sha256: str, label: str) -> None:
    """An app says otherwise, over the API for programs."""
    said = {"sha256": sha256, "label": label, "author_kind": "app", "author": "line-3"}
    site.ask("POST", f"{site.root}/labels", said)


def predict(site: Site, scores: dict[str, dict[str, float]]) -> None:
    """Predictions of a model, where the loop of suggestions writes them: sha256 → class → p."""
    database = sqlite3.connect(site.server.database.removeprefix("sqlite:///"), timeout=60)
    with database:
        ids = dict(
            database.execute(
                "SELECT item.sha256, item.id FROM item JOIN dataset ON dataset.id = dataset_id "
                "WHERE dataset.name = ?",
                [site.dataset],
            )
        )
        classes = dict(
            database.execute(
                "SELECT key, label_class.id FROM label_class "
                "JOIN dataset ON dataset.id = dataset_id WHERE dataset.name = ?",
                [site.dataset],
            )
        )
        for sha256, of_classes in scores.items():
            ranked = sorted(of_classes.items(), key=lambda one: -one[1])
            stored = str([list(one) for one in ranked]).replace("'", '"')
            database.execute(
                "INSERT INTO prediction (item_id, model, version, scores, class_id, probability,"
                " margin, sure, at) VALUES (?, 'cells', 3, ?, ?, ?, 0.5, 1, ?)",
                [ids[sha256], stored, classes[ranked[0][0]], ranked[0][1], datetime.now(UTC)],
            )
    database.close()
