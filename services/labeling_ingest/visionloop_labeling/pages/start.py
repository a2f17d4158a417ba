"""The start page: the datasets as cards, and making one."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from visionloop.errors import InvalidInputError, VisionloopError
from visionloop_labeling.accounts import Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService
from visionloop_labeling.splits import SplitRatios

TASKS = (
    ("classification", "One class", "Each image gets one of the classes."),
    ("multi_label", "Several classes", "Each image gets any number of classes, or none."),
    ("detection", "Boxes", "Boxes are drawn around things, each with its class."),
)


def routes(service: LabelingService) -> APIRouter:
    """The start page and its form."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    async def page(request: Request, status: int = 200, **form: str) -> Response:
        return render(
            request,
            "start.html",
            status=status,
            datasets=await service.list_datasets(),
            tasks=TASKS,
            may_make=current(request).may(Role.ADMIN),
            form={"name": "", "task": "classification", "train": "70", "val": "10", "test": "20"}
            | form,
            problem=form.get("problem", ""),
        )

    @api.get("/")
    async def start(request: Request) -> Response:
        return await page(request)

    @api.post("/datasets")
    async def make_dataset(
        request: Request,
        name: Annotated[str, Form()] = "",
        task: Annotated[str, Form()] = "classification",
        train: Annotated[str, Form()] = "70",
        val: Annotated[str, Form()] = "10",
        test: Annotated[str, Form()] = "20",
    ) -> Response:
        name = name.strip().lower()
        try:
            settings = _settings(task, train, val, test)
            made = await service.create_new_dataset(name, settings)
        except VisionloopError as error:
            said = {"name": name, "task": task, "train": train, "val": val, "test": test}
            return await page(request, error.http_status, problem=str(error), **said)
        return RedirectResponse(f"/datasets/{made.name}", 303)

    return api


def _settings(task: str, train: str, val: str, test: str) -> DatasetSettings:
    """The settings that the form says; ratios come in percent."""
    try:
        shares = [float(part.replace(",", ".")) / 100 for part in (train, val, test)]
    except ValueError as error:
        raise InvalidInputError(
            "the shares of train, val and test must be numbers in percent, as 70, 10 and 20",
            field="ratios",
        ) from error
    try:
        ratios = SplitRatios(train=shares[0], val=shares[1], test=shares[2])
        return DatasetSettings.model_validate({"ratios": ratios, "task": task})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "ratios"
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from error
