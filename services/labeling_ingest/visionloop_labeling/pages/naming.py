"""What pages call classes: names and colours by the ids that annotations have."""

from dataclasses import dataclass
from typing import Final

from visionloop_labeling import datasets, validation
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.service import LabelingService

# For classes that nobody gave a colour, in their order: the same as static/label/classes.js has.
# Told apart also by people who see red and green alike; names always stand beside.
_COLOURS: Final = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#8a6bd1", "#b3a100", "#a6564b", "#4c7f8f"),
)


@dataclass(frozen=True, slots=True)
class NamedClass:
    """A class as pages show it."""

    key: str
    name: str
    colour: str
    hotkey: str
    state: ClassState


def classes(service: LabelingService, dataset_name: str) -> dict[str, NamedClass]:
    """Every class by its id, in the order of pages. Raises NotFoundError."""
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        book = ClassBook(session, dataset).all()
    # Those that are offered come first, so that what became of others changes no colour.
    ordered = sorted(book, key=lambda one: one.state != ClassState.ACTIVE)
    colours = {one.id: _COLOURS[n % len(_COLOURS)] for n, one in enumerate(ordered)}
    return {
        one.key: NamedClass(
            key=one.key,
            name=one.name,
            colour=one.colour or colours[one.id],
            hotkey=one.hotkey,
            state=ClassState(one.state),
        )
        for one in book
    }


def for_scripts(classes: dict[str, NamedClass]) -> list[dict[str, str]]:
    """The classes that are offered, as the scripts know classes (static/label/wire.js)."""
    return [
        {"id": one.key, "name": one.name, "hotkey": one.hotkey, "colour": one.colour}
        for one in classes.values()
        if one.state is ClassState.ACTIVE
    ]
