"""Write a trained embedder as an ONNX file, checked against PyTorch.

landmark export embedder=RUN/embedder output=FILE.onnx
landmark export embedder=RUN/embedder output=FILE.onnx normalise=false unit_length=false
landmark export embedder=RUN/embedder output=FILE.onnx 'size=[448,448]' opset=20

Needs pip install onnx onnxruntime onnxscript.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from omegaconf import DictConfig
from pydantic import Field, PositiveInt

from landmark.cli._command import command
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.model.export import ExportedEmbedder, Size

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Export:
    """Own settings of an export; conf/export.yaml describes them."""

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
        self.check_output()
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            install = f"pip install {' '.join(PACKAGES)}"
            raise UserError(f"an export needs {', '.join(missing)}. Run {install}.")
        if not Path(self.embedder).exists():
            raise UserError(f"embedder={self.embedder} does not exist. Pass RUN/embedder.")

    def check_output(self) -> None:
        """Check that the output does not exist, or may be replaced."""
        if Path(self.output).exists() and not self.overwrite:
            raise UserError(f"{self.output} already exists. Pass overwrite=true to replace it.")


@command(Export)
def main(settings: Export, config: DictConfig) -> None:
    """Export `RUN/embedder` to an ONNX file that agrees with PyTorch."""
    del config
    from landmark import __version__
    from landmark.disk.atomic import atomic_file
    from landmark.disk.lock import locked
    from landmark.model.export import ExportedEmbedder, add_metadata
    from landmark.model.persist import embedder_digest, load_embedder

    embedder, description = load_embedder(settings.embedder)
    exported = ExportedEmbedder(embedder, settings.normalise, settings.unit_length).eval()
    with locked(settings.output), atomic_file(settings.output) as temporary:
        settings.check_output()  # another process may have written it before the lock
        size, multiple, difference = write(
            exported, temporary, description["model"]["image_size"], settings
        )
        metadata = exported.metadata(size, multiple) | {
            "embedder": embedder_digest(settings.embedder),
            "landmark_version": __version__,
            "checked": f"differs from PyTorch by {difference:.1e} at most",
        }
        add_metadata(temporary, metadata)
    for key in ("images", "size", "embeddings", "checked"):
        print(f"{key:<11} {metadata[key]}")
    print(f"wrote {settings.output}")


def write(
    exported: "ExportedEmbedder", file: Path, run_size: "Size", settings: Export
) -> tuple["Size", int | None, float]:
    """Export for images of any size if requested and possible, else for one size.

    Args:
        exported: Network to export.
        file: File to write.
        run_size: (width, height) of the run's images.
        settings: Settings of the export.

    Returns:
        The size of the export, the number of which sides must be multiples (None: only that size),
        and the largest difference from PyTorch.
    """
    from landmark.model.export import write_checked

    multiples = exported.multiples if settings.size == "any" else []
    width, height = run_size if settings.size == "any" else settings.size
    for multiple in multiples:
        try:
            difference = write_checked(exported, file, (width, height), multiple, settings.opset)
        except UserError as error:
            print(f"not for all multiples of {multiple}: {error}", flush=True)
        else:
            return (width, height), multiple, difference
    difference = write_checked(exported, file, (width, height), None, settings.opset)
    return (width, height), None, difference
