"""`visionloop-inference doctor`: the program's own flags, tried instead of served."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from visionloop.doctor.accelerators import check_onnxruntime, cuda_finding, driver_cuda
from visionloop.doctor.findings import Finding, Findings, tell
from visionloop.doctor.machine import check_folder, check_ports
from visionloop.doctor.store import check_store
from visionloop.errors import NotFoundError
from visionloop.repository import ModelRepository
from visionloop_inference.feedback import INBOX
from visionloop_inference.settings import Settings, parse

PROGRAM = "visionloop-inference"


def main(arguments: Sequence[str]) -> int:
    """Prints what was found; gives the exit code. Raises ConfigurationError for wrong flags."""
    settings = parse([argument for argument in arguments if argument != "--json"])
    return tell(PROGRAM, examine(settings), as_json="--json" in arguments)


def examine(settings: Settings) -> Findings:
    """All that this program needs, each tried."""
    findings = Findings()
    findings.add(check_onnxruntime())
    _check_provider(findings, settings)
    store = check_store(findings, settings.store, reads=["models"], writes=[INBOX])
    size = 0
    if store is not None:
        with findings.checking("models"):
            size = _check_models(findings, ModelRepository(store), settings.models)
    cache = settings.cache or Path(tempfile.gettempdir())
    findings.add(check_folder("cache", cache, size, "--cache"))
    ports = {"port": settings.port, "http-port": settings.http_port}
    if settings.tls:
        ports["https-port"] = settings.https_port
    with findings.checking("ports"):
        check_ports(findings, settings.host, ports, health=settings.http_port)
    return findings


def _check_provider(findings: Findings, settings: Settings) -> None:
    """A session is really made on the provider, which loads driver, CUDA and cuDNN."""
    from visionloop_inference import providers  # here, for onnxruntime takes its time

    gpu = settings.provider != "cpu"
    findings.add(cuda_finding("onnxruntime", providers.built_for_cuda(), driver_cuda(), wanted=gpu))
    with findings.checking("provider"):
        providers.prove(settings.provider)
        findings.add(Finding.ok("provider", f"a graph runs on {settings.provider}"))


def _check_models(findings: Findings, repository: ModelRepository, wanted: Sequence[str]) -> int:
    """What would be served; the bytes that its files take on this machine."""
    there = repository.models()
    for model in wanted:
        if model not in there:
            findings.add(Finding.failed("models", _missing(model, there)))
    served, size = [], 0
    for model in wanted or there:
        if model not in there:
            continue
        with findings.checking("models"):
            aliases = repository.aliases(model).aliases
            canary = aliases.canary
            named = {
                "stable": aliases.stable,
                "canary": None if canary is None else canary.version,
            }
            for alias, version in named.items():
                if version is None:
                    continue
                bundle = repository.read(model, version)
                size += sum(file.size for file in bundle.files.values())
                served.append(f"{model} {alias} {version}")
    if served:
        findings.add(Finding.ok("models", f"to be served: {', '.join(served)}"))
    else:
        findings.add(
            Finding.warning(
                "models",
                "nothing to serve, so the server starts and is not ready; publish a model "
                "(visionloop-train, visionloop models add) and promote it (visionloop models "
                "promote)",
            )
        )
    return size


def _missing(model: str, there: Sequence[str]) -> NotFoundError:
    shown = ", ".join(there) or "none yet"
    return NotFoundError(f"--models names {model!r}, which has no version; there are: {shown}")
