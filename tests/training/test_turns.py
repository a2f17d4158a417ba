"""A few images of many kinds: rare kinds among them, and nothing read that is not taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from visionloop_training.data import Dataset, Item
from visionloop_training.publish import golden_items
from visionloop_training.turns import in_turns


def item(number: int, *classes: int) -> Item:
    return Item(f"{number:064x}", -1, f"g{number}", (), 1.0, classes)


def test_kinds_take_turns_and_each_image_comes_once() -> None:
    common = [item(number, 0) for number in range(5)]
    both = item(9, 0, 1)
    assert in_turns([[both, *common], [both]], 3) == [both, *common[:2]]
    assert in_turns([common, [both]], 3) == [common[0], both, common[1]]
    assert in_turns([common[:1], [both]], 99) == [common[0], both]
    assert in_turns([], 3) == []


def test_what_is_not_taken_is_not_read() -> None:
    def endless(kind: int) -> Iterator[Item]:
        for number in range(10):
            yield item(100 * kind + number, kind)
        raise AssertionError("read on")

    assert len(in_turns([endless(0), endless(1)], 20)) == 20


def test_golden_images_are_chosen_in_one_pass() -> None:
    """A million images of a thousand classes are no thousand million looks."""
    looks = []

    @dataclass(frozen=True)
    class Seen:
        sha256: str
        label: int

        @property
        def classes(self) -> tuple[int, ...]:
            looks.append(self.sha256)
            return (self.label,)

    test = tuple(Seen(f"{number:03}", number % 40) for number in range(200))
    never = cast(Any, (None,))
    data = cast(Dataset, SimpleNamespace(class_ids=range(40), test=test, val=never, train=never))
    assert [one.label for one in cast(list[Seen], golden_items(data, 80))] == [*range(40)] * 2
    assert len(looks) == len(test)
