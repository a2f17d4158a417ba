"""What labellers say about an image or a box beside its class: a choice, a number, a colour.

People choose among what is defined. Rows and files bring what they have: an unknown attribute is
defined by its first value (text: a choice, which grows; number: a number), because refusing the row
would lose the label with it. Bounds hold for everybody.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, InvalidInputError
from visionloop.record import Record
from visionloop_labeling import validation
from visionloop_labeling.schema import Dataset, LabelAttribute

MAX_ATTRIBUTES: Final = 64
MAX_CHOICES: Final = 1000
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_Choice = Annotated[str, Field(min_length=1, max_length=validation.MAX_NAME)]


class AttributeDetail(Record):
    """`choices` of a choice; bounds and unit of a number."""

    choices: Annotated[tuple[_Choice, ...], Field(max_length=MAX_CHOICES)] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: Annotated[str, Field(max_length=20)] = ""


class AttributeSpec(Record):
    """An attribute of a dataset."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,62}$")]
    kind: Literal["choice", "number", "colour"]
    detail: AttributeDetail = AttributeDetail()
    retired: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.detail.minimum, self.detail.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"attribute {self.name}: minimum {low:g} is above maximum {high:g}")
        if self.kind == "choice" and len(set(self.detail.choices)) < len(self.detail.choices):
            raise ValueError(f"attribute {self.name} names a choice twice")
        return self


class AttributeBook:
    """The attributes of one dataset within one transaction."""

    def __init__(self, session: Session, dataset: Dataset) -> None:
        self._session = session
        self._dataset = dataset
        self._known: dict[str, LabelAttribute] | None = None

    def fitted(
        self, values: Mapping[str, str | float], *, learn: bool, field: str
    ) -> dict[str, str | float]:
        """Values in the form their attributes ask for. Raises InvalidInputError.

        With `learn`, attributes and choices that are not known are accepted; `learned` adds them.
        Whether there is room for them, all boxes together, `check_room` says.
        """
        fitting: dict[str, str | float] = {}
        for name, value in sorted(values.items()):
            known = self._all().get(name)
            if known is None or known.retired:
                if not learn:
                    raise InvalidInputError(
                        f'{field}: attribute "{name[:63]}" is not one of this dataset; it has '
                        f"{', '.join(self._offered()) or 'none'}",
                        field=field,
                    )
                if known is None:
                    _check_name(name, field)
            spec = _first_spec(name, value) if known is None else _spec(known)
            fitting[name] = _fit(spec, value, learn=learn, field=field)
        return fitting

    def check_room(self, names: Iterable[str], field: str) -> None:
        """Raises InvalidInputError where those of the names that are new are too many."""
        new = sorted(set(names) - self._all().keys())
        if new and len(self._all()) + len(new) > MAX_ATTRIBUTES:
            raise InvalidInputError(
                f"{field}: attribute {new[0][:63]!a} and {len(new) - 1} other new ones would make "
                f"{len(self._all()) + len(new)} of the dataset; the limit is {MAX_ATTRIBUTES}",
                field=field,
            )

    def learned(self, values: Mapping[str, str | float]) -> None:
        """Adds the attributes and choices that are not known. The values have been `fitted`."""
        for name, value in values.items():
            known = self._all().get(name)
            if known is None:
                spec = _first_spec(name, value)
                known = LabelAttribute(
                    dataset_id=self._dataset.id, name=name, kind=spec.kind, detail={}, retired=False
                )
                self._session.add(known)
                self._all()[name] = known
            choices = list(known.detail.get("choices", ()))
            new = known.kind == "choice" and isinstance(value, str) and value not in choices
            if new and len(choices) < MAX_CHOICES:
                known.detail = {**known.detail, "choices": [*choices, value]}

    def _offered(self) -> list[str]:
        return [name for name, one in self._all().items() if not one.retired]

    def _all(self) -> dict[str, LabelAttribute]:
        if self._known is None:
            query = select(LabelAttribute).where(LabelAttribute.dataset_id == self._dataset.id)
            found = self._session.scalars(query.order_by(LabelAttribute.id))
            self._known = {one.name: one for one in found}
        return self._known


def specs(session: Session, dataset: Dataset) -> list[AttributeSpec]:
    """The attributes, in the order they appeared."""
    query = select(LabelAttribute).where(LabelAttribute.dataset_id == dataset.id)
    return [_spec(one) for one in session.scalars(query.order_by(LabelAttribute.id))]


def define(session: Session, dataset: Dataset, wanted: Sequence[AttributeSpec]) -> None:
    """Sets all attributes; what is missing is retired. The dataset is locked.

    Raises ConflictError when an attribute has another kind already: values that were said keep it.
    """
    wanted = [_checked(one) for one in wanted]
    names = [one.name for one in wanted]
    if len(set(names)) < len(names) or len(names) > MAX_ATTRIBUTES:
        raise InvalidInputError(
            f"{len(names)} attributes are given; name each once, at most {MAX_ATTRIBUTES}",
            field="attributes",
        )
    query = select(LabelAttribute).where(LabelAttribute.dataset_id == dataset.id)
    known = {one.name: one for one in session.scalars(query)}
    for spec in wanted:
        one = known.get(spec.name)
        if one is not None and one.kind != spec.kind:
            raise ConflictError(
                f'attribute "{spec.name}" is a {one.kind} and values of it were said; add one of '
                f"another name for a {spec.kind}"
            )
    for spec in wanted:
        one = known.pop(spec.name, None)
        if one is None:
            one = LabelAttribute(dataset_id=dataset.id, name=spec.name, kind=spec.kind)
            session.add(one)
        one.detail = spec.detail.model_dump(mode="json", exclude_defaults=True)
        one.retired = spec.retired
    for one in known.values():
        one.retired = True
    session.flush()


def _check_name(name: str, field: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", name):
        raise InvalidInputError(
            f"{field}: attribute {name[:63]!a} is not a usable name; use 1 to 63 letters, "
            'digits, "_", "." and "-", beginning with a letter or "_"',
            field=field,
        )


def _checked(spec: AttributeSpec) -> AttributeSpec:
    field = f"attributes.{spec.name}"
    choices = tuple(validation.text(choice, field) for choice in spec.detail.choices)
    unit = validation.text(spec.detail.unit, field, required=False)
    detail = spec.detail.model_copy(update={"choices": choices, "unit": unit})
    return spec.model_copy(update={"detail": detail})


def _spec(one: LabelAttribute) -> AttributeSpec:
    return AttributeSpec.model_validate(
        {"name": one.name, "kind": one.kind, "detail": one.detail, "retired": one.retired}
    )


def _first_spec(name: str, value: str | float) -> AttributeSpec:
    return AttributeSpec(name=name, kind="choice" if isinstance(value, str) else "number")


def _fit(spec: AttributeSpec, value: str | float, *, learn: bool, field: str) -> str | float:
    what = f"{field}: attribute {spec.name}"
    if spec.kind == "number":
        return _number(spec.detail, value, what, field)
    text = value if isinstance(value, str) else f"{value:g}"
    if spec.kind == "colour":
        if not _COLOUR.fullmatch(text.lower()):
            raise InvalidInputError(
                f"{what} is {text[:20]!a}, which is no colour; write #rrggbb", field=field
            )
        return text.lower()
    text = validation.text(text, field)
    if text not in spec.detail.choices and not learn:
        raise InvalidInputError(
            f'{what} is "{text[:60]}"; choose one of {", ".join(spec.detail.choices[:20])}',
            field=field,
        )
    return text


def _number(detail: AttributeDetail, value: str | float, what: str, field: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise InvalidInputError(
            f'{what} is "{str(value)[:60]}", which is no number', field=field
        ) from error
    low = float("-inf") if detail.minimum is None else detail.minimum
    high = float("inf") if detail.maximum is None else detail.maximum
    if not (low <= number <= high) or number in (float("-inf"), float("inf")):
        raise InvalidInputError(
            f"{what} is {number:g}; it must be from {low:g} to {high:g}", field=field
        )
    return number
