"""Triton's extensions that ask the supervisor: what is asked, and how its answers are told."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support import runners
from support.open_inference import served

from visionloop.errors import InvalidInputError, NotFoundError, UnimplementedError, VisionloopError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.open_inference import OpenInference


class Supervisor:
    """Answers from a table, and remembers what it was asked."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, kind: str, details: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((kind, details))
        if kind == "log" and "level" in details:
            self.answers["log"] = {"level": details["level"]}
        return self.answers[kind]


def ask(folder: Path, supervisor: Supervisor, method: str, *requests: Any) -> list[Any]:
    async def all_of_it() -> list[Any]:
        async with served(folder, runners.tiny(), ask=supervisor) as open_inference:
            call = getattr(open_inference, method)
            return [await call(request, None) for request in requests]

    return asyncio.run(all_of_it())


def test_every_rpc_is_there() -> None:
    """None is left to the generated base class, which answers UNIMPLEMENTED."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in service.methods:
        found = getattr(OpenInference, method.name)
        assert found.__module__.startswith("visionloop_inference."), method.name


def test_statistics(tmp_path: Path) -> None:
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    found = {
        "name": "small", "version": 1, "last_inference_ms": 1_790_000_000_000,
        "inference_count": 40, "execution_count": 10,
        "stats": {stage: {"count": n, "ns": 1000 * n} for n, stage in enumerate(stages)},
    }  # fmt: skip
    supervisor = Supervisor(statistics={"models": [found]})
    [answer] = ask(
        tmp_path,
        supervisor,
        "ModelStatistics",
        pb.ModelStatisticsRequest(name="small", version="1"),
    )
    assert supervisor.asked == [("statistics", {"model": "small", "version": "1"})]
    [model] = answer.model_stats
    assert (model.name, model.version, model.last_inference) == ("small", "1", 1_790_000_000_000)
    assert (model.inference_count, model.execution_count) == (40, 10)
    for number, stage in enumerate(stages):
        duration = getattr(model.inference_stats, stage)
        assert (duration.count, duration.ns) == (number, 1000 * number)
    with pytest.raises(NotFoundError, match="'dogs' is not served here"):
        ask(tmp_path, supervisor, "ModelStatistics", pb.ModelStatisticsRequest(name="dogs"))


def test_repository_index(tmp_path: Path) -> None:
    models = [
        {"name": "a", "version": 1, "state": "READY", "reason": ""},
        {"name": "a", "version": 2, "state": "UNAVAILABLE", "reason": "it is corrupt"},
        {"name": "b", "version": 7, "state": "LOADING", "reason": ""},
    ]
    every, ready = ask(
        tmp_path,
        Supervisor(index={"models": models}),
        "RepositoryIndex",
        pb.RepositoryIndexRequest(),
        pb.RepositoryIndexRequest(ready=True),
    )
    assert [(m.name, m.version, m.state, m.reason) for m in every.models] == [
        ("a", "1", "READY", ""),
        ("a", "2", "UNAVAILABLE", "it is corrupt"),
        ("b", "7", "LOADING", ""),
    ]
    assert [m.version for m in ready.models] == ["1"]
    with pytest.raises(UnimplementedError, match="one repository: leave it empty"):
        ask(
            tmp_path,
            Supervisor(),
            "RepositoryIndex",
            pb.RepositoryIndexRequest(repository_name="r"),
        )


def test_load_and_unload(tmp_path: Path) -> None:
    supervisor = Supervisor(load={}, unload={})
    ask(tmp_path, supervisor, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="a"))
    unload = pb.RepositoryModelUnloadRequest(model_name="a")
    unload.parameters["unload_dependents"].bool_param = True
    ask(tmp_path, supervisor, "RepositoryModelUnload", unload)
    assert supervisor.asked == [("load", {"model": "a"}), ("unload", {"model": "a"})]
    for name in ("config", "file:1/model.onnx", "version"):
        load = pb.RepositoryModelLoadRequest(model_name="a")
        load.parameters[name].bytes_param = b"x"
        with pytest.raises(UnimplementedError, match=f"'{name}' .* is not offered"):
            ask(tmp_path, supervisor, "RepositoryModelLoad", load)


def test_tracing_is_off(tmp_path: Path) -> None:
    off = pb.TraceSettingRequest()
    off.settings["trace_level"].value.append("OFF")
    cleared = pb.TraceSettingRequest()
    cleared.settings["trace_file"].SetInParent()
    for answer in ask(
        tmp_path,
        Supervisor(),
        "TraceSetting",
        pb.TraceSettingRequest(model_name="small"),
        off,
        cleared,
    ):
        assert {name: list(s.value) for name, s in answer.settings.items()} == {
            "trace_level": ["OFF"]
        }
    for name, value in (("trace_level", "TIMESTAMPS"), ("trace_file", "/tmp/t"), ("x", "y")):
        wanted = pb.TraceSettingRequest()
        wanted.settings[name].value.append(value)
        with pytest.raises(UnimplementedError, match="writes no traces"):
            ask(tmp_path, Supervisor(), "TraceSetting", wanted)
    with pytest.raises(NotFoundError):
        ask(tmp_path, Supervisor(), "TraceSetting", pb.TraceSettingRequest(model_name="dogs"))


def log_settings(**settings: object) -> pb.LogSettingsRequest:
    made = pb.LogSettingsRequest()
    for name, value in settings.items():
        kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(made.settings[name], kind, value)
    return made


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ("INFO", {}, "INFO"),
        ("INFO", {"log_verbose_level": 1}, "DEBUG"),
        ("DEBUG", {"log_verbose_level": 0}, "INFO"),
        ("DEBUG", {"log_info": False}, "WARNING"),
        ("INFO", {"log_info": False, "log_warning": False}, "ERROR"),
        ("ERROR", {"log_info": True, "log_warning": True}, "INFO"),
        ("WARNING", {"log_format": "default", "log_file": ""}, "WARNING"),
    ],
)
def test_log_settings(tmp_path: Path, before: str, asked: dict[str, object], after: str) -> None:
    supervisor = Supervisor(log={"level": before})
    [answer] = ask(tmp_path, supervisor, "LogSettings", log_settings(**asked))
    assert supervisor.answers["log"]["level"] == after
    assert len(supervisor.asked) == 1 + bool(asked)
    order = ("ERROR", "WARNING", "INFO", "DEBUG")
    for kind in order[:3]:
        shown = answer.settings[f"log_{kind.lower()}"].bool_param
        assert shown == (order.index(kind) <= order.index(after))
    assert answer.settings["log_verbose_level"].uint32_param == (after == "DEBUG")
    assert answer.settings["log_file"].string_param == ""
    assert answer.settings["log_format"].string_param == "default"


@pytest.mark.parametrize(
    "asked",
    [
        {"log_file": "/tmp/log"},
        {"log_format": "ISO8601"},
        {"log_verbose_level": "1"},
        {"log_info": 1},
        {"log_error": False},
        {"log_warning": False},
        {"log_everything": True},
    ],
)
def test_log_settings_that_are_not_there(tmp_path: Path, asked: dict[str, object]) -> None:
    supervisor = Supervisor(log={"level": "INFO"})
    with pytest.raises(InvalidInputError):
        ask(tmp_path, supervisor, "LogSettings", log_settings(**asked))
    assert supervisor.asked == [("log", {})]


def test_cuda_shared_memory(tmp_path: Path) -> None:
    """perf_analyzer unregisters it before anything else, and insists on an answer."""
    [status] = ask(
        tmp_path, Supervisor(), "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()
    )
    assert not status.regions
    ask(
        tmp_path, Supervisor(), "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()
    )
    with pytest.raises(VisionloopError, match="not offered") as refusal:
        ask(
            tmp_path,
            Supervisor(),
            "CudaSharedMemoryRegister",
            pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"h", byte_size=1),
        )
    assert refusal.value.grpc_code == "UNIMPLEMENTED"
