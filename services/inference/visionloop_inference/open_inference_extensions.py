"""Triton's extensions of the Open Inference Protocol that are not about tensors.

Statistics, the repository, shared memory, tracing and logging: what operators and tools ask of a
server. The supervisor knows the answers, so most of these ask it. Nothing here takes a path: logs
go where the server was told at start, and there are no trace files.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from visionloop.errors import InvalidInputError, NotFoundError, UnimplementedError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.model_config import Offer
from visionloop_inference.routed_version import RoutedVersion
from visionloop_inference.shared_memory import Regions, no_shared_memory

# To the supervisor: what is asked for, and its details. Raises visionloop.errors.
Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")  # of the log; each lets through those before it
LOG_FORMAT = "default"
MAX_VERSION = 100  # characters
NO_TRACES = {"trace_level": ["OFF"]}


class Extensions(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """This half of the servicer. Errors are raised; the front end maps them."""

    def __init__(
        self, catalogue: Catalogue, ask: Ask, offer: Offer, regions: Regions | None
    ) -> None:
        self._catalogue = catalogue
        self._ask = ask
        self._offer = offer
        self._regions = regions if offer.shared_memory else None

    def _version(self, model: str, version: str) -> RoutedVersion:
        check_version(version)
        return self._catalogue.model(model).version(version)

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, _context: object
    ) -> pb.ModelStatisticsResponse:
        number = ""
        if request.version:
            number = str(self._version(request.name, request.version).number)
        elif request.name:
            self._catalogue.model(request.name)
        found = await self._ask("statistics", {"model": request.name, "version": number})
        return pb.ModelStatisticsResponse(model_stats=map(_statistics, found["models"]))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, _context: object
    ) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        found = await self._ask("index", {})
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry["name"],
                    version=str(entry["version"]),
                    state=entry["state"],
                    reason=entry["reason"],
                )
                for entry in found["models"]
                if entry["state"] == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, _context: object
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        for name in request.parameters:
            raise UnimplementedError(
                f"the parameter {name[:100]!r} of RepositoryModelLoad is not offered by this "
                "server: models come from its store as they were published, in the versions that "
                "their aliases name"
            )
        await self._ask("load", {"model": request.model_name})
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, _context: object
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        await self._ask("unload", {"model": request.model_name})
        return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, _context: object
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._shared_memory().status(request.name):
            found = response.regions[region.name]
            found.name, found.key = region.name, region.key
            found.offset, found.byte_size = region.offset, region.size
        return response

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, _context: object
    ) -> pb.SystemSharedMemoryRegisterResponse:
        await self._shared_memory().register(
            request.name, request.key, request.offset, request.byte_size
        )
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, _context: object
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        if self._regions is not None:  # clients tidy up by this before they register anything
            await self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _shared_memory(self) -> Regions:
        if self._regions is None:
            raise no_shared_memory()
        return self._regions

    async def CudaSharedMemoryStatus(
        self, _request: pb.CudaSharedMemoryStatusRequest, _context: object
    ) -> pb.CudaSharedMemoryStatusResponse:
        return pb.CudaSharedMemoryStatusResponse()  # there are none

    async def CudaSharedMemoryRegister(
        self, _request: pb.CudaSharedMemoryRegisterRequest, _context: object
    ) -> pb.CudaSharedMemoryRegisterResponse:
        raise UnimplementedError(
            "CUDA shared memory is not offered by this server; use system shared memory or send "
            "tensors in the message"
        )

    async def CudaSharedMemoryUnregister(
        self, _request: pb.CudaSharedMemoryUnregisterRequest, _context: object
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return pb.CudaSharedMemoryUnregisterResponse()  # perf_analyzer insists on OK

    async def TraceSetting(
        self, request: pb.TraceSettingRequest, _context: object
    ) -> pb.TraceSettingResponse:
        if request.model_name:
            self._catalogue.model(request.model_name)
        for name, setting in request.settings.items():
            # A setting without values clears it, which leaves tracing off.
            if setting.value and NO_TRACES.get(name) != list(setting.value):
                raise UnimplementedError(
                    f"the trace setting {name[:100]!r} is not offered by this server, which writes "
                    "no traces: trace_level is OFF"
                )
        response = pb.TraceSettingResponse()
        for name, values in NO_TRACES.items():
            response.settings[name].value.extend(values)
        return response

    async def LogSettings(
        self, request: pb.LogSettingsRequest, _context: object
    ) -> pb.LogSettingsResponse:
        level = (await self._ask("log", {}))["level"]
        if request.settings:
            level = (await self._ask("log", {"level": _level(request.settings, level)}))["level"]
        response = pb.LogSettingsResponse()
        for name, shown in _shown(level).items():
            response.settings[f"log_{name}"].bool_param = shown
        response.settings["log_verbose_level"].uint32_param = int(level == "DEBUG")
        response.settings["log_format"].string_param = LOG_FORMAT
        response.settings["log_file"].string_param = ""
        return response


def _shown(level: str) -> dict[str, bool]:
    """Which kinds of entries a level lets through."""
    return {kind.lower(): LEVELS.index(kind) <= LEVELS.index(level) for kind in LEVELS[:-1]}


def _level(settings: Mapping[str, Any], level: str) -> str:
    """The level that Triton's settings mean where `level` is in force."""
    shown = _shown(level)
    verbose: bool | None = None
    for name, setting in settings.items():
        kind = setting.WhichOneof("parameter_choice")
        value = getattr(setting, kind) if kind else None
        if name == "log_verbose_level" and kind == "uint32_param":
            verbose = bool(value)
        elif name.removeprefix("log_") in shown and kind == "bool_param":
            shown[name.removeprefix("log_")] = bool(value)
        elif (name, value) not in (("log_format", LOG_FORMAT), ("log_file", "")):
            raise InvalidInputError(
                f"the log setting {name[:100]!r} cannot be {str(value)[:100]!r} here: "
                "log_verbose_level is a number, log_info, log_warning and log_error are true or "
                "false; where the log goes and its format are chosen at start",
                field=f"settings.{name[:100]}",
            )
    if verbose is None:  # goes with the first kind that is turned off
        verbose = level == "DEBUG" and all(shown.values())
    wanted = [kind.upper() for kind, on in shown.items() if on] + ["DEBUG"] * verbose
    if wanted != list(LEVELS[: len(wanted)]) or not wanted:
        raise InvalidInputError(
            f"the log cannot hold {', '.join(wanted) or 'nothing'} alone: each level includes "
            f"those before it in {', '.join(LEVELS)} (DEBUG is log_verbose_level above 0)",
            field="settings",
        )
    return wanted[-1]


def check_version(version: str) -> None:
    """Raises NotFoundError for what is too long to be a version."""
    if len(version) > MAX_VERSION:
        raise NotFoundError(
            f"model_version is {len(version)} characters long; a version is a number, 'stable' or "
            "'canary'"
        )


def _check_repository(name: str) -> None:
    if name:
        raise UnimplementedError(
            f"repository_name is {name[:100]!r}; this server has one repository: leave it empty"
        )


def _statistics(found: Mapping[str, Any]) -> pb.ModelStatistics:
    made = pb.ModelStatistics(
        name=found["name"],
        version=str(found["version"]),
        last_inference=int(found["last_inference_ms"]),
        inference_count=int(found["inference_count"]),
        execution_count=int(found["execution_count"]),
    )
    for stage, duration in found["stats"].items():
        stated = getattr(made.inference_stats, stage)
        stated.count, stated.ns = int(duration["count"]), int(duration["ns"])
    return made
