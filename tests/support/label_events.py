"""What people and programs say of one image of the dataset "cells", and how it stands then."""

from visionloop_labeling import datasets, labels
from visionloop_labeling.annotation import Draft
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.history import of_image
from visionloop_labeling.labels import Statement
from visionloop_labeling.queue import item_outs


def do(core, sha256: str, kind: str, author: str = "ann", by: str = "human", **fields: object):
    """An event of any kind: do(core, sha256, "undo"). The answer."""
    statement = Statement(AuthorKind(by), author, EventKind(kind), **fields)
    return labels.submit(core.database, "cells", sha256, statement)


def call_it(core, sha256: str, name: str, author: str = "ann", **fields: object):
    """A label of one class. The answer."""
    return do(core, sha256, "label", author, annotation=Draft(classes=(name,)), **fields)


def shown(core, sha256: str):
    """The image as pages and programs see it."""
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        item = labels.find_item(session, dataset, sha256)
        return item_outs(session, dataset, [item])[0]


def standing(core, sha256: str) -> tuple[str, str, bool]:
    """The image's class, its place in the work, whether it is disputed."""
    one = shown(core, sha256)
    name = "" if one.annotation is None else ",".join(one.annotation.get("classes", ()))
    return name, str(one.state), one.disputed


def history(core, sha256: str):
    """All events of the image, oldest first."""
    with core.database.read() as session:
        return of_image(session, "cells", sha256)
