"""Writes a trained embedder as an ONNX file and holds it against PyTorch.

python export.py embedder=RUN/embedder output=FILE.onnx
python export.py embedder=RUN/embedder output=FILE.onnx normalise=false unit_length=false
python export.py embedder=RUN/embedder output=FILE.onnx 'size=[448,448]' opset=20
python export.py --help
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, ListConfig

from landmark.command import plain_mistakes, run
from landmark.mistake import UserMistake

if TYPE_CHECKING:
    from landmark.model.export import ExportedEmbedder

NEEDED = ("onnx", "onnxruntime", "onnxscript")
OLDEST_OPSET = 18


@hydra.main(config_path="conf", config_name="export", version_base="1.3")
@plain_mistakes
def main(config: DictConfig) -> None:
    """Checks the configuration, then exports."""
    check(config)
    export(config)


def check(config: DictConfig) -> None:
    """Refuses wrong settings before anything heavy is imported."""
    for key in ("normalise", "unit_length", "overwrite"):
        if not isinstance(config[key], bool):
            raise UserMistake(f"{key}={config[key]}: choose true or false")
    if not isinstance(config.opset, int) or config.opset < OLDEST_OPSET:
        raise UserMistake(f"opset={config.opset}: give a number, {OLDEST_OPSET} or more")
    sides = list(config.size) if isinstance(config.size, ListConfig) else []
    whole = all(isinstance(side, int) and side > 0 for side in sides)
    if config.size != "any" and not (len(sides) == 2 and whole):
        raise UserMistake(f"size={config.size}: choose any, or give [width,height]")
    if Path(config.output).exists() and not config.overwrite:
        raise UserMistake(f"{config.output}: is there already; overwrite=true replaces it")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        lacking, all_needed = ", ".join(missing), " ".join(NEEDED)
        raise UserMistake(f"{lacking}: needed for an export, pip install {all_needed}")
    if not Path(config.embedder).exists():
        raise UserMistake(f"embedder={config.embedder}: no such folder or checkpoint")


def export(config: DictConfig) -> None:
    """From `RUN/embedder` to a checked ONNX file."""
    from landmark import __version__
    from landmark.artifact.atomic import replace_file
    from landmark.model.export import ExportedEmbedder, add_metadata
    from landmark.model.persist import embedder_digest, load_embedder
    from landmark.task.quiet import quieten

    quieten()
    embedder, description = load_embedder(config.embedder)
    exported = ExportedEmbedder(embedder, config.normalise, config.unit_length).eval()
    with replace_file(config.output) as temporary:
        size, multiple, difference = write(exported, temporary, description, config)
        metadata = exported.metadata(size, multiple) | {
            "embedder": embedder_digest(config.embedder),
            "landmark_version": __version__,
            "checked": f"differs from PyTorch by {difference:.1e} at most",
        }
        add_metadata(temporary, metadata)
    for key in ("images", "size", "embeddings", "checked"):
        print(f"{key:<11} {metadata[key]}")
    print(f"wrote {config.output}")


def write(
    exported: "ExportedEmbedder", file: Path, description: dict[str, Any], config: DictConfig
) -> tuple[tuple[int, int], int | None, float]:
    """Writes for any size where that is asked for and can be, else for one.

    Returns:
        The size that it was written with, of what sides may be multiples (None: it alone), and the
        largest difference from PyTorch.
    """
    from landmark.model.export import write_checked

    of_run = config.size == "any"
    width, height = description["model"]["image_size"] if of_run else config.size
    for multiple in exported.multiples if of_run else []:
        try:
            difference = write_checked(exported, file, (width, height), multiple, config.opset)
        except UserMistake as mistake:
            print(f"not for all multiples of {multiple}: {mistake}", flush=True)
        else:
            return (width, height), multiple, difference
    difference = write_checked(exported, file, (width, height), None, config.opset)
    return (width, height), None, difference


if __name__ == "__main__":
    run(main)
