"""An embedder as an ONNX file, which is held against PyTorch before anybody relies on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.model.embedder import Embedder, pool
from landmark.model.same_padding import has_same_padding, with_fixed_padding

IMAGES, EMBEDDINGS = "images", "embeddings"
TOLERANCE = 1e-4
_BATCHES = (1, 3, 2)
_LARGEST_STRIDE = 32

Size = tuple[int, int]


class ExportedEmbedder(nn.Module):
    """What the file computes: float32 images (B, 3, h, w) → embeddings (B, D).

    Args:
        embedder: in evaluation mode.
        normalise: whether images are from 0 to 1 and are normalised inside; if not, they come
            normalised with the embedder's mean and standard deviation.
        unit_length: whether embeddings are divided by their length.
    """

    def __init__(
        self, embedder: Embedder, normalise: bool = True, unit_length: bool = True
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.normalise = normalise
        self.unit_length = unit_length

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, D)."""
        if self.normalise:
            images = (images - self.embedder.mean) / self.embedder.std
        pooled = pool(self.embedder.pooling, self.embedder.backbone(images))
        embeddings = self.embedder.neck(pooled)
        return functional.normalize(embeddings) if self.unit_length else embeddings

    @property
    def multiples(self) -> list[int]:
        """Of what sides may have to be multiples, the least first.

        A transformer's photos are not padded to whole patches in the file. Networks that join maps
        of several strides, as FishNet, or pad by TensorFlow's rule can be written for multiples of
        the largest stride alone.
        """
        backbone = self.embedder.backbone
        if backbone.dynamic:
            return [backbone.reduction]
        return [_LARGEST_STRIDE] if has_same_padding(backbone) else [1, _LARGEST_STRIDE]

    def metadata(self, size: Size, multiple: int | None) -> dict[str, str]:
        """What the file says about itself.

        Args:
            size: (width, height) that it was written with.
            multiple: see `write_onnx`.
        """
        sides = f"{size[0]}x{size[1]} alone"
        if multiple is not None:
            sides = "any width and height"
            sides += f", multiples of {multiple}" if multiple > 1 else ""
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values.flatten().tolist())
            for values in (self.embedder.mean, self.embedder.std)
        )
        shown = f"from 0 to 1, normalised inside (mean {mean}; standard deviation {std})"
        if not self.normalise:
            shown = f"(value from 0 to 1 - mean) / standard deviation: mean {mean}; deviation {std}"
        return {
            "images": f"float32 (batch, 3, height, width), RGB, {shown}",
            "size": sides,
            "embeddings": f"float32 (batch, {self.embedder.embedding_dim}), "
            + ("of unit length" if self.unit_length else "not of unit length"),
            "normalise": str(self.normalise).lower(),
            "unit_length": str(self.unit_length).lower(),
        }


def write_checked(
    exported: ExportedEmbedder, path: Path, size: Size, multiple: int | None, opset: int
) -> float:
    """Writes the network and holds it against PyTorch, at several sizes where it takes them.

    Args:
        exported: what to write.
        path: the file.
        size: (width, height) of the photos that the network is traced with.
        multiple: of what width and height may be any multiple; None: they are `size` alone.
        opset: version of ONNX's operators.

    Returns:
        The largest difference, see `largest_difference`.

    Raises:
        UserError: the network cannot be written like this, or differs by more than `TOLERANCE`.
    """
    write_onnx(exported, path, size, multiple, opset)
    sizes = [size] * len(_BATCHES) if multiple is None else _several_sizes(size, multiple)
    worst, place = largest_difference(exported, path, sizes)
    if not worst <= TOLERANCE:
        raise UserError(
            f"ONNX Runtime's embeddings differ from PyTorch's by {worst:.1e} for {place}, more "
            f"than {TOLERANCE:.0e}: nothing is written; try another opset"
        )
    return worst


def _several_sizes(size: Size, multiple: int) -> list[Size]:
    """The size, a wider, a higher and a larger one, and one that no stride divides."""
    step = multiple if multiple > 1 else 16
    width, height = (side + -side % multiple for side in size)
    added = [(0, 0), (4, 0), (0, 2), (1, 3)]
    sizes = [(width + step * wider, height + step * higher) for wider, higher in added]
    return sizes if multiple > 1 else [*sizes, (width + 7, height + 3)]


def write_onnx(
    exported: ExportedEmbedder, path: Path, size: Size, multiple: int | None, opset: int
) -> None:
    """Writes the network for any batch and, with `any_size`, any width and height.

    Args:
        exported: what to write.
        path: the file.
        size: (width, height) of the photos that the network is traced with.
        multiple: of what width and height may be any multiple; None: they are `size` alone.
        opset: version of ONNX's operators.

    Raises:
        UserError: the network cannot be written like this; says why.
    """
    width, height = (side + -side % (multiple or 1) for side in size)
    images = torch.rand(2, 3, height, width)
    open_sides: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if multiple == 1 or (multiple and exported.embedder.backbone.dynamic):
        open_sides |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    elif multiple:
        open_sides[0] = torch.export.Dim("batch")
        for place, name in ((2, "rows"), (3, "columns")):
            open_sides[place] = multiple * torch.export.Dim(name, min=1)
    network: nn.Module = exported
    if multiple == _LARGEST_STRIDE and has_same_padding(exported):
        network = with_fixed_padding(exported).eval()
    try:
        torch.onnx.export(
            network,
            (images,),
            path,
            input_names=[IMAGES],
            output_names=[EMBEDDINGS],
            dynamic_shapes={"images": open_sides},
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # torch raises what it comes across inside of the network
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise UserError(f"size: this network cannot be exported so ({reason})") from error
    _check_open_sides(path, multiple is not None)


def _check_open_sides(path: Path, any_size: bool) -> None:
    """Refuses a file in which a side that should be open is a number."""
    import onnx

    model = onnx.load(path)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in ((0, "batch"), (2, "height"), (3, "width")):
        if place and not any_size:
            continue
        if sides[place].HasField("dim_value"):
            raise UserError(f"size: this network was exported for one {name} alone")


def add_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Writes `metadata` into the file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def largest_difference(
    exported: ExportedEmbedder, path: Path, sizes: Sequence[Size]
) -> tuple[float, str]:
    """Holds the file against PyTorch with ONNX Runtime, at several sizes and batches.

    Args:
        exported: what was written.
        path: the file.
        sizes: (width, height) of the photos.

    Returns:
        The largest difference of unit-length embeddings' components or of lengths, the latter
        relative; and where it was found.

    Raises:
        UserError: ONNX Runtime refuses the file or a batch.
    """
    import onnxruntime

    worst, place = -1.0, ""
    generator = torch.Generator().manual_seed(0)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for number, (width, height) in enumerate(sizes):
            for batch in {1, _BATCHES[number % len(_BATCHES)]}:
                images = torch.rand(batch, 3, height, width, generator=generator)
                with torch.inference_mode():
                    expected = exported(images)
                found = torch.from_numpy(session.run(None, {IMAGES: images.numpy()})[0])
                difference = _difference(found, expected)
                if not difference <= worst:
                    worst, place = difference, f"{batch} of {width}x{height}"
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        text = " ".join(str(error).split())
        raise UserError(f"ONNX Runtime cannot run the network ({text})") from error
    return worst, place


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    lengths, wanted = (vectors.norm(dim=1, keepdim=True) for vectors in (found, expected))
    direction = (found / lengths - expected / wanted).abs().max()
    length = (lengths / wanted - 1).abs().max()
    return float(torch.maximum(direction, length))
