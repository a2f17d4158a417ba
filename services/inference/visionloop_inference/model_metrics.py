"""What /metrics says of a model: the versions that serve, how old they are, whether one is awaited.

Series cannot be taken back, so an alias's version of before stays, with the value 0.
"""

from collections.abc import Mapping

from visionloop.telemetry import inference as metrics
from visionloop_inference.lifecycle import ModelVersion


class ModelMetrics:
    """The series of one model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._told: set[tuple[str, int]] = set()  # alias and version

    def tell(self, serving: Mapping[str, ModelVersion], *, pending: bool) -> None:
        """`serving` maps aliases to the versions that serve under them.

        `pending`: an alias means a version that does not serve.
        """
        metrics.MODEL_PENDING.labels(model=self._model).set(float(pending))
        now = {(alias, version.number) for alias, version in serving.items()}
        self._told |= now
        for alias, number in self._told:
            metrics.MODEL_INFO.labels(
                model=self._model, version=str(number), alias=alias
            ).set(float((alias, number) in now))  # fmt: skip
        for alias in {alias for alias, _ in self._told}:
            version = serving.get(alias)
            created = version.bundle.created.timestamp() if version is not None else 0.0
            metrics.MODEL_CREATED.labels(model=self._model, alias=alias).set(created)
