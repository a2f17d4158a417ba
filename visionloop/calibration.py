"""How a classifier's answer follows from its graph's outputs; a part of every such bundle.

Calibration makes probabilities of logits, thresholds an answer of probabilities. Both are fitted on
val by training; the calibration is in the graph, the thresholds are the server's to keep.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from visionloop.record import Probability, Record


class Calibration(Record):
    """How `probabilities` are made from `logits`: softmax(logits / temperature).

    Fitted on val by minimising the negative log-likelihood (Guo et al. 2017); the division is in
    the graph. ECE over 15 equal-width bins, on val before and after.
    """

    method: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0.0)]
    ece_before: Probability
    ece_after: Probability


class LabelCalibration(Record):
    """How `probabilities` are made from `logits` where each class is a question of its own:
    sigmoid(logits / temperatures + biases), in the order of the labels; both are in the graph.

    Fitted class by class on val by minimising the negative log-likelihood (Platt 1999). ECE over 15
    equal-width bins, mean over the classes, on val before (1 and 0) and after.
    """

    method: Literal["platt"] = "platt"
    temperatures: list[Annotated[float, Field(gt=0.0)]]
    biases: list[float]
    ece_before: Probability
    ece_after: Probability


class ConformalSets(Record):
    """How the classes that an image may be of follow from its probabilities.

    They hold the true class of an image like those of val with probability `coverage`. `lac`: the
    classes of probability 1 - `quantile` or more. `aps`: the likeliest ones until their sum reaches
    `quantile`.
    """

    score: Literal["lac", "aps"]
    coverage: Probability
    quantile: Probability


class Thresholds(Record):
    """When an answer is "not sure": its best probability is below `not_sure`, or the image is
    unlike what the model was trained for: the graph's output of kind `distance` is above `distance`
    or, in bundles of before there was one, the energy -log(sum(exp(logits))) above `energy`.

    All but `not_sure` are written only where they are set, so a bundle without them is as the first
    ones were. A reader that does not know them refuses those that have them.
    """

    not_sure: Probability
    energy: float | None = None
    distance: float | None = None
    conformal: ConformalSets | None = None  # what `not_sure` was made from

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if value is not None}


class LabelThresholds(Record):
    """From which probability on an image has a class: `present`, in the order of the labels.

    Chosen class by class on val, by the named rule. The image is unlike what the model was trained
    for where the graph's output of kind `distance` is above `distance`; None: nobody looks.
    """

    method: Literal["max_f1", "target_precision"]
    present: list[Probability]
    distance: float | None = None
