"""Writes a trained embedder as an ONNX file and holds it against PyTorch.

python export.py embedder=RUN/embedder output=FILE.onnx
python export.py embedder=RUN/embedder output=FILE.onnx normalise=false unit_length=false
python export.py embedder=RUN/embedder output=FILE.onnx 'size=[448,448]' opset=20
python export.py --help
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

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
        raise UserMistake(
            f"{', '.join(missing)} is needed for an export: pip install {' '.join(NEEDED)}"
        )
    if not Path(config.embedder).exists():
        raise UserMistake(f"embedder={config.embedder}: no such folder or checkpoint")


def export(config: DictConfig) -> None:
    """From `RUN/embedder` to a checked ONNX file."""
    from landmark import __version__
    from landmark.artifact.atomic import replace_file
    from landmark.model.export import TOLERANCE, ExportedEmbedder, add_metadata, largest_difference
    from landmark.model.persist import embedder_digest, load_embedder
    from landmark.task.quiet import quieten

    quieten()
    embedder, description = load_embedder(config.embedder)
    exported = ExportedEmbedder(embedder, config.normalise, config.unit_length).eval()
    width, height = description["model"]["image_size"] if config.size == "any" else config.size
    with replace_file(config.output) as temporary:
        one_size = write(exported, temporary, (width, height), config)
        sizes = [one_size] * 3 if one_size else other_sizes(width, height)
        worst, place = largest_difference(exported, temporary, sizes)
        if not worst <= TOLERANCE:
            raise UserMistake(
                f"{config.output}: not written, its embeddings differ by {worst:.1e} from "
                f"PyTorch's for {place}, more than {TOLERANCE:.0e}; try another opset"
            )
        metadata = exported.metadata(one_size) | {
            "embedder": embedder_digest(config.embedder),
            "landmark_version": __version__,
            "checked": f"largest difference {worst:.1e}, {len(sizes)} sizes",
        }
        add_metadata(temporary, metadata)
    for key in ("images", "size", "embeddings", "checked"):
        print(f"{key:<11} {metadata[key]}")
    print(f"wrote {config.output}")


def write(
    exported: "ExportedEmbedder", file: Path, size: tuple[int, int], config: DictConfig
) -> tuple[int, int] | None:
    """Writes for any size where that is asked for and can be; returns the one size otherwise."""
    from landmark.model.export import write_onnx

    if config.size == "any":
        try:
            write_onnx(exported, file, size, any_size=True, opset=config.opset)
        except UserMistake as mistake:
            print(f"{mistake}: exporting for {size[0]}x{size[1]} alone")
        else:
            return None
    write_onnx(exported, file, size, any_size=False, opset=config.opset)
    return size


def other_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """The run's size, a wider, a higher and a larger one, and one that no stride divides."""
    grown = (width + 32, height + 64)
    return [
        (width, height),
        (width + 64, height),
        (width, height + 32),
        grown,
        (width + 7, height + 3),
    ]


if __name__ == "__main__":
    run(main)
