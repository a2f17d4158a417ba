"""When there is enough reason to train again: the settings of `--if-needed`."""

from pydantic import Field

from visionloop.record import Probability
from visionloop_training.section import Positive, Section


class TriggersConfig(Section):
    """When `--if-needed` trains; they do not change what is made."""

    min_new_labels: int = Field(
        50, ge=1, description="So many new or changed labels are a reason to train."
    )
    new_label_share: Probability = Field(0.05, description="They also must be this share of train.")
    full_label_share: Probability = Field(
        0.25,
        description="With `--lane auto`: new labels since the last full training, as a share of "
        "train, that call for the full lane and not only for a new head.",
    )
    alpha: float = Field(
        0.01, gt=0.0, lt=0.5, description="Level of the tests for errors and drift."
    )
    fresh_images: int = Field(
        400,
        ge=0,
        le=100_000,
        description="At most so many new labelled images are shown to the stable version, to see "
        "how it does on them; 0: none, which switches the triggers of errors and embeddings off.",
    )
    min_fresh_images: int = Field(
        30, ge=1, description="Fewer new images than this prove nothing about errors and drift."
    )
    label_psi: Positive = Field(
        0.2, description="Population stability index of the classes that is drift."
    )
    embedding_distance: Positive = Field(
        0.5, description="Distance of the mean embedding, in standard deviations, that is drift."
    )
    max_age_days: float = Field(
        30.0, ge=0.0, description="Age of the last full training that is a reason; 0: none."
    )
