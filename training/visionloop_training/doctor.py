"""`visionloop-train doctor`: the job's own flags, tried before hours of training rest on them."""

import argparse
from typing import Final

import torch

from visionloop.doctor.accelerators import check_onnxruntime, cuda_finding, driver_cuda
from visionloop.doctor.findings import Finding, Findings, tell
from visionloop.doctor.machine import check_folder
from visionloop.doctor.store import check_store
from visionloop.errors import ConfigurationError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotRepository
from visionloop_training import config as configuration
from visionloop_training.backbones import default_weights
from visionloop_training.cache import default_folder
from visionloop_training.weights import read_weights

PROGRAM: Final = "visionloop-train"


def run(flags: argparse.Namespace) -> int:
    """Prints what was found; gives the exit code. Raises ConfigurationError for wrong flags."""
    if not flags.store:
        raise ConfigurationError("--store is missing (or set VISIONLOOP_STORE)", field="store")
    return tell(PROGRAM, examine(flags), as_json=flags.json)


def examine(flags: argparse.Namespace) -> Findings:
    """All that this program needs, each tried."""
    findings = Findings()
    findings.add(check_onnxruntime())
    findings.add(*_device())
    with findings.checking("weights"):
        config = configuration.load(flags.preset, flags.config, flags.set or ())
        findings.add(_weights(config.backbone.name, config.backbone.weights))
    store = check_store(findings, flags.store, reads=["datasets", "blobs"], writes=["models"])
    if store is not None and flags.dataset:
        with findings.checking("dataset"):
            findings.add(_dataset(store, flags.dataset, flags.snapshot))
    findings.add(check_folder("cache", flags.cache or default_folder(), 0, "--cache"))
    return findings


def _device() -> list[Finding]:
    driver = driver_cuda()
    built_for = torch.version.cuda or ""
    found = cuda_finding(f"torch {torch.__version__}", built_for, driver, wanted=False)
    if torch.cuda.is_available():
        names = ", ".join(
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        )
        return [found, Finding.ok("device", f"trains on {names}")]
    if driver is None or found.exit_code:
        return [found, Finding.ok("device", "trains on the CPU")]
    return [
        found,
        Finding.warning(
            "device",
            "trains on the CPU, although there is a driver; give the pod a GPU "
            "(resources.limits nvidia.com/gpu), and look at CUDA_VISIBLE_DEVICES",
        ),
    ]


def _weights(backbone: str, source: str) -> Finding:
    source = default_weights(backbone) if source == "default" else source
    if source in ("timm", "torchvision"):
        return Finding.warning(
            "weights",
            f"those of {backbone} are downloaded when it starts; where there is no Internet, name "
            "a file: backbone.weights=file:///path#sha256=…",
        )
    found = read_weights(source)
    if found is None:
        return Finding.ok("weights", f"{backbone} starts from none")
    return Finding.ok("weights", f"{source}, sha256 {found.sha256[:12]}…")


def _dataset(store: ObjectStore, dataset: str, snapshot: str) -> Finding:
    found = SnapshotRepository(store).manifest(dataset, snapshot)
    return Finding.ok("dataset", f"{dataset}: snapshot {found.id[:19]}")
