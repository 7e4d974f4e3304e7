"""Write a trained embedder as an ONNX file, checked against PyTorch.

landmark export embedder=RUN/embedder output=FILE.onnx
landmark export embedder=RUN/embedder output=FILE.onnx normalise=false unit_length=false
landmark export embedder=RUN/embedder output=FILE.onnx 'size=[448,448]' opset=20

Needs pip install onnx onnxruntime onnxscript.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field, PositiveInt

from landmark.cli._command import command
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.model.export import ExportedEmbedder

NEEDED = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Export:
    """Settings of an export.

    Attributes:
        embedder: a run's embedder folder (RUN/embedder) or one of its checkpoints.
        output: the ONNX file to write.
        overwrite: replace an existing file.
        normalise: the file takes photos from 0 to 1 and normalises them, else normalised ones.
        unit_length: the file's embeddings are of unit length.
        size: any (where the network cannot, the run's size), or photos of that size alone.
        opset: version of ONNX's operators.
    """

    embedder: str
    output: str
    overwrite: bool
    normalise: bool
    unit_length: bool
    size: Annotated[
        Literal["any"] | tuple[PositiveInt, PositiveInt], Field(description="any or [width,height]")
    ]
    opset: Annotated[int, Field(ge=18)]

    def __post_init__(self) -> None:
        if Path(self.output).exists() and not self.overwrite:
            raise UserError(f"{self.output} already exists. Pass overwrite=true to replace it.")
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            install = f"pip install {' '.join(NEEDED)}"
            raise UserError(f"an export needs {', '.join(missing)}. Run {install}.")
        if not Path(self.embedder).exists():
            raise UserError(f"embedder={self.embedder} does not exist. Pass RUN/embedder.")


@command(Export)
def main(settings: Export, config: DictConfig) -> None:
    """Check the configuration, then export."""
    del settings
    export(config)


def export(config: DictConfig) -> None:
    """From `RUN/embedder` to a checked ONNX file."""
    from landmark import __version__
    from landmark.disk.atomic import atomic_file
    from landmark.model.export import ExportedEmbedder, add_metadata
    from landmark.model.persist import embedder_digest, load_embedder
    from landmark.task.logging import silence_lightning

    silence_lightning()
    embedder, description = load_embedder(config.embedder)
    exported = ExportedEmbedder(embedder, config.normalise, config.unit_length).eval()
    with atomic_file(config.output) as temporary:
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
        except UserError as mistake:
            print(f"not for all multiples of {multiple}: {mistake}", flush=True)
        else:
            return (width, height), multiple, difference
    difference = write_checked(exported, file, (width, height), None, config.opset)
    return (width, height), None, difference
