"""The base of every stored record (bundle.json, manifests, aliases)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Record(BaseModel):
    """Immutable; unknown fields are an error, so that a newer format is never half understood."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
