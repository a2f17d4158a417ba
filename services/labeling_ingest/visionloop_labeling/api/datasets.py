"""Datasets."""

from fastapi import APIRouter

from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import DatasetOut, NewDataset
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """Datasets."""
    api = APIRouter(tags=["datasets"])

    @api.post("/v1/datasets", responses=ERRORS)
    async def create_dataset(new: NewDataset) -> DatasetOut:
        """Makes a dataset, or returns the one of this name. Its settings never change."""
        return DatasetOut.of(await service.create_dataset(new.name, new.settings))

    @api.get("/v1/datasets", responses=ERRORS)
    async def list_datasets() -> list[DatasetOut]:
        """All datasets by name."""
        return [DatasetOut.of(one) for one in await service.list_datasets()]

    return api
