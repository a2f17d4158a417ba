"""What people set for a dataset beside its classes: attributes, and preferences."""

from fastapi import APIRouter

from visionloop_labeling import attributes, datasets, validation
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.attributes import AttributeSpec
from visionloop_labeling.datasets import MAX_INSTRUCTIONS, Preferences
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """Attributes and preferences."""
    api = APIRouter(prefix="/v1/datasets/{dataset}", tags=["classes"])
    settings = _Settings(service)
    api.get("/attributes", responses=ERRORS)(settings.list_attributes)
    api.put("/attributes", responses=ERRORS)(settings.set_attributes)
    api.get("/preferences", responses=ERRORS)(settings.preferences)
    api.put("/preferences", responses=ERRORS)(settings.set_preferences)
    return api


class _Settings:
    """The calls, over a service."""

    def __init__(self, service: LabelingService) -> None:
        self._service = service

    async def list_attributes(self, dataset: str) -> list[AttributeSpec]:
        """What labellers can say beside the class."""
        return await self._service.run(_attributes, self._service, dataset)

    async def set_attributes(
        self, dataset: str, wanted: list[AttributeSpec]
    ) -> list[AttributeSpec]:
        """Sets all attributes; one that is missing is retired, its values stay."""
        return await self._service.run(_set_attributes, self._service, dataset, wanted)

    async def preferences(self, dataset: str) -> Preferences:
        """What people set for a dataset."""
        return await self._service.run(_preferences, self._service, dataset)

    async def set_preferences(self, dataset: str, wanted: Preferences) -> Preferences:
        """Sets all of it."""
        return await self._service.run(_set_preferences, self._service, dataset, wanted)


def _attributes(service: LabelingService, dataset_name: str) -> list[AttributeSpec]:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return attributes.specs(session, dataset)


def _set_attributes(
    service: LabelingService, dataset_name: str, wanted: list[AttributeSpec]
) -> list[AttributeSpec]:
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        attributes.define(session, dataset, wanted)
        return attributes.specs(session, dataset)


def _preferences(service: LabelingService, dataset_name: str) -> Preferences:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return datasets.preferences_of(dataset)


def _set_preferences(
    service: LabelingService, dataset_name: str, wanted: Preferences
) -> Preferences:
    checked = Preferences(
        instructions=validation.lines(wanted.instructions, "instructions", limit=MAX_INSTRUCTIONS),
        suggestions_model=validation.text(
            wanted.suggestions_model, "suggestions_model", required=False
        ),
    )
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        dataset.preferences = checked.model_dump(mode="json")
    return checked
