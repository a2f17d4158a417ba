"""The walls between the programs, read from the imports of every module (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "visionloop": ROOT / "visionloop",
    "visionloop_inference": ROOT / "services/inference/visionloop_inference",
    "visionloop_labeling": ROOT / "services/labeling_ingest/visionloop_labeling",
    "visionloop_training": ROOT / "training/visionloop_training",
}
PROGRAMS = {name for name in PACKAGES if name != "visionloop"}
FORBIDDEN = {
    "visionloop": {"torch", "torchvision", "timm", "onnxruntime", "fastapi", "starlette", "uvicorn"}
    | PROGRAMS,
    "visionloop_inference": {"torch", "torchvision", "timm", "fastapi", "sqlalchemy"}
    | PROGRAMS - {"visionloop_inference"},
    "visionloop_labeling": {"torch", "torchvision", "timm", "onnxruntime"}
    | PROGRAMS - {"visionloop_labeling"},
    "visionloop_training": {"fastapi", "sqlalchemy", "uvicorn"}
    | PROGRAMS - {"visionloop_training"},
}


def modules(package: str) -> dict[str, Path]:
    """Dotted name → file of every module of a package."""
    root = PACKAGES[package]
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, at_import_only: bool = False) -> set[str]:
    """Every dotted name the file imports; with at_import_only, those outside of functions."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        pending.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reaches_over_a_wall(package: str) -> None:
    offences = [
        f"{module} imports {name}"
        for module, path in modules(package).items()
        for name in sorted(imports(path))
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycles(package: str) -> None:
    names = modules(package)
    graph = {
        module: {name for name in imports(path, at_import_only=True) if name in names} - {module}
        for module, path in names.items()
    }
    # An __init__ that re-exports its own children is not a cycle of ideas.
    for module in graph:
        graph[module] = {n for n in graph[module] if not n.startswith(f"{module}.")}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_wall_test_sees_imports(tmp_path: Path) -> None:
    file = tmp_path / "offender.py"
    file.write_text("def f():\n    import torch.nn\n    from visionloop_training import fit\n")
    assert {"torch.nn", "visionloop_training.fit"} <= imports(file)
    assert imports(file, at_import_only=True) == set()
