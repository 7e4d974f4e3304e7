"""Imports respect the order of the packages in docs/architecture.md."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A package imports only from lower floors (docs/architecture.md).
FLOORS = {
    "error": -1,
    "device": 0,
    "disk": 0,
    "metric": 0,
    "processes": 0,
    "settings": 0,
    "artifact": 1,
    "image": 1,
    "loss": 1,
    "model": 1,
    "pair": 1,
    "pooling": 1,
    "sampler": 1,
    "toy": 1,
    "verify": 1,
    "data": 2,
    "head": 2,
    "local": 2,
    "extract": 3,
    "search": 3,
    "task": 3,
    "fit": 4,
    "score": 4,
    "rerank": 5,
    "clean": 6,
    "recognize": 6,
    "sweep": 6,
    "report": 7,
    "cli": 8,
    "__main__": 9,
}
GROUND = {"error", "device", "disk", "processes", "settings"}
# These packages import even less than their floor allows.
ONLY = {
    "metric": set(),
    "artifact": GROUND,
    "image": GROUND,
    "sampler": GROUND,
    "toy": GROUND,
    "model": GROUND,
    "pooling": GROUND,
    "loss": GROUND,
    "verify": GROUND,
    "pair": GROUND,
    "head": GROUND | {"loss"},
    "local": GROUND | {"artifact", "verify"},
    "task": GROUND | {"model", "pooling", "loss", "head", "metric", "data"},
    "extract": GROUND | {"model", "pooling", "data", "artifact", "image", "local"},
    "search": GROUND | {"artifact"},
    "score": GROUND | {"artifact", "metric", "data"},
    "sweep": GROUND | {"artifact"},
}
PACKAGE_FILES = sorted((ROOT / "landmark").rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "landmark")
    return inside.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_floor_imports_only_from_floors_below(path):
    part = part_of(path)
    names = imported_names(path)
    if part == "__init__":
        assert not any(name.startswith("landmark.") for name in names)
        return
    for name in names:
        if not name.startswith("landmark."):
            continue
        other = name.split(".")[1]
        if other in (part, "error", "__version__"):
            continue
        assert other in FLOORS, f"{path.name} imports {name}, which is on no floor"
        assert FLOORS[other] < FLOORS[part], f"{path.name} imports {name} from a higher floor"
        assert other in ONLY.get(part, {other}), f"{part} may not know {other}"


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_commands_import_hydra_or_a_logger(path):
    if part_of(path) == "cli":
        return
    tops = {name.partition(".")[0] for name in imported_names(path)}
    assert not tops & {"hydra", "wandb", "tensorboard"}
    assert "pytorch_lightning.loggers" not in imported_names(path)


@pytest.mark.parametrize("part", ["artifact", "metric", "disk", "cli", "toy", "verify"])
def test_a_package_needs_no_torch(part):
    for path in (ROOT / "landmark" / part).rglob("*.py"):
        tops = {name.partition(".")[0] for name in module_level_imports(path)}
        assert not tops & {"torch", "timm", "faiss", "pytorch_lightning"}, path


def module_level_imports(path: Path) -> set[str]:
    """Return the modules imported at module level, without those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {
        name
        for node in statements
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }


def test_metrics_import_only_numpy():
    for path in (ROOT / "landmark" / "metric").rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported_names(path)}
        assert not tops & {"pandas", "pyarrow", "sklearn", "scipy"}, path


def test_every_group_of_the_project_is_a_package():
    other_peoples = {
        "experiment",
        "hydra",
        "trainer",
        "logger",
        "callback",
        "optimizer",
        "schedule",
    }
    of_another_group = {"auxiliary"}  # its targets are losses
    groups = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
    for group in groups - other_peoples - of_another_group:
        assert (ROOT / "landmark" / group).is_dir(), f"conf/{group} has no landmark/{group}"


def test_the_drawing_is_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import drawing
    finally:
        sys.path.pop(0)
    assert drawing.DRAWING.read_text() == drawing.draw(drawing.imports()), "run make drawing"
