"""Imports run in one direction, as the architecture says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "mistake": -1,
    "artifact": 0,
    "metric": 0,
    "image": 1,
    "sampler": 1,
    "model": 1,
    "pooling": 1,
    "loss": 1,
    "verify": 1,
    "data": 2,
    "head": 2,
    "task": 3,
    "extract": 3,
    "search": 3,
    "rerank": 4,
    "clean": 4,
    "recognize": 4,
    "report": 4,
    "command": 5,
    "job": 5,
    "setting_types": 5,
}
# The floor says what may be imported at most; these may import even less.
ONLY = {
    "artifact": set(),
    "metric": set(),
    "image": set(),
    "sampler": set(),
    "model": set(),
    "pooling": set(),
    "loss": set(),
    "head": {"loss"},
    "task": {"model", "pooling", "loss", "head", "metric", "data"},
    "extract": {"model", "pooling", "data", "artifact", "image"},
    "search": {"artifact"},
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
        if other in (part, "mistake", "__version__"):
            continue
        assert other in FLOORS, f"{path.name} imports {name}, which is on no floor"
        assert FLOORS[other] < FLOORS[part], f"{path.name} imports {name} from a higher floor"
        assert other in ONLY.get(part, {other}), f"{part} may not know {other}"


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_root_scripts_import_hydra_or_a_logger(path):
    tops = {name.partition(".")[0] for name in imported_names(path)}
    assert not tops & {"hydra", "wandb", "tensorboard"}
    assert "pytorch_lightning.loggers" not in imported_names(path)


@pytest.mark.parametrize("part", ["artifact", "metric"])
def test_the_ground_floor_needs_no_torch(part):
    for path in (ROOT / "landmark" / part).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported_names(path)}
        assert "torch" not in tops, path


def test_metrics_need_numpy_alone():
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
    of_another_group = {"auxiliary"}  # losses again
    groups = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
    for group in groups - other_peoples - of_another_group:
        assert (ROOT / "landmark" / group).is_dir(), f"conf/{group} has no landmark/{group}"
