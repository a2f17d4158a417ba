"""What pages call classes: names and colours by the ids that annotations have."""

from dataclasses import dataclass

from visionloop_labeling import datasets, validation
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.service import LabelingService

# For classes that nobody gave a colour: hues far apart, of one lightness, for both themes.
_COLOURS = (
    *("#4c78d0", "#c8681e", "#2f9277", "#b3569b", "#8a7a1f", "#5a8f2e"),
    *("#c14b57", "#3f8fb5", "#8562c4", "#9a6a4a"),
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
        return {
            one.key: NamedClass(
                key=one.key,
                name=one.name,
                colour=one.colour or _COLOURS[number % len(_COLOURS)],
                hotkey=one.hotkey,
                state=ClassState(one.state),
            )
            for number, one in enumerate(ClassBook(session, dataset).all())
        }
