"""Export an embedder to an ONNX file and compare it with PyTorch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.model.embedder import Embedder
from landmark.model.same_padding import has_same_padding, with_fixed_padding

IMAGES, EMBEDDINGS = "images", "embeddings"
AXES = {0: "batch", 2: "height", 3: "width"}
TOLERANCE = 1e-4
_BATCHES = (1, 3, 2)
_LARGEST_STRIDE = 32
_SYMBOL = re.compile(r"[A-Za-z_]\w*")

Size = tuple[int, int]


class ExportedEmbedder(nn.Module):
    """The exported network: float32 images (B, 3, h, w) → embeddings (B, D).

    Args:
        embedder: Embedder in evaluation mode.
        normalise: Normalise images from 0 to 1 inside the network. False expects images that are
            already normalised with the embedder's mean and standard deviation.
        unit_length: Divide embeddings by their norm.
    """

    def __init__(
        self, embedder: Embedder, normalise: bool = True, unit_length: bool = True
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.normalise = normalise
        self.unit_length = unit_length

    def forward(self, images: Tensor) -> Tensor:
        """Compute the embeddings (B, D) of images (B, 3, h, w)."""
        if self.normalise:
            images = self.embedder.standardise(images)
        embeddings = self.embedder.embed(self.embedder.backbone(images))
        return functional.normalize(embeddings) if self.unit_length else embeddings

    @property
    def multiples(self) -> list[int]:
        """Candidate divisors of the sides of images, the smallest first.

        The file does not pad a transformer's images to complete patches. Networks that join maps
        of several strides, such as FishNet, or pad by TensorFlow's rule can be exported for
        multiples of the largest stride only.
        """
        backbone = self.embedder.backbone
        if backbone.dynamic:
            return [backbone.reduction]
        return [_LARGEST_STRIDE] if has_same_padding(backbone) else [1, _LARGEST_STRIDE]

    def metadata(self, size: Size, multiple: int | None) -> dict[str, str]:
        """Return the file's metadata, which describes inputs and outputs.

        Args:
            size: (width, height) of the export.
            multiple: See `write_onnx`.
        """
        sides = f"{size[0]}x{size[1]} only"
        if multiple is not None:
            sides = "any width and height"
            sides += f", multiples of {multiple}" if multiple > 1 else ""
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values.flatten().tolist())
            for values in (self.embedder.mean, self.embedder.std)
        )
        values = f"from 0 to 1, normalised inside (mean {mean}; standard deviation {std})"
        if not self.normalise:
            values = (
                f"(value from 0 to 1 - mean) / standard deviation: mean {mean}; deviation {std}"
            )
        return {
            "images": f"float32 (batch, 3, height, width), RGB, {values}",
            "size": sides,
            "embeddings": f"float32 (batch, {self.embedder.embedding_dim}), "
            + ("of unit length" if self.unit_length else "not of unit length"),
            "normalise": str(self.normalise).lower(),
            "unit_length": str(self.unit_length).lower(),
        }


def write_checked(
    exported: ExportedEmbedder, path: Path, size: Size, multiple: int | None, opset: int
) -> float:
    """Export the network and compare the file with PyTorch, at several sizes if it supports them.

    Args:
        exported: Network to export.
        path: File to write.
        size: See `write_onnx`.
        multiple: See `write_onnx`.
        opset: Version of ONNX's operators.

    Returns:
        The largest difference, see `largest_difference`.

    Raises:
        UserError: The export fails, or differs from PyTorch by more than `TOLERANCE`.
    """
    write_onnx(exported, path, size, multiple, opset)
    sizes = [size] * len(_BATCHES) if multiple is None else _test_sizes(size, multiple)
    worst, case = largest_difference(exported, path, sizes)
    if not worst <= TOLERANCE:
        raise UserError(
            f"ONNX Runtime's embeddings differ from PyTorch's by {worst:.1e} for {case}, more than "
            f"{TOLERANCE:.0e}; no file was written. Pass another opset."
        )
    return worst


def _test_sizes(size: Size, multiple: int) -> list[Size]:
    """Return the size, a wider, a higher and a larger one, and one that no stride divides."""
    step = multiple if multiple > 1 else 16
    width, height = (side + -side % multiple for side in size)
    added = [(0, 0), (4, 0), (0, 2), (1, 3)]
    sizes = [(width + step * wider, height + step * higher) for wider, higher in added]
    return sizes if multiple > 1 else [*sizes, (width + 7, height + 3)]


def write_onnx(
    exported: ExportedEmbedder, path: Path, size: Size, multiple: int | None, opset: int
) -> None:
    """Export the network for any batch size and, with `multiple`, any width and height.

    Args:
        exported: Network to export.
        path: File to write.
        size: (width, height) of the images that trace the network.
        multiple: Number that divides width and height of all images. None means `size` only.
        opset: Version of ONNX's operators.

    Raises:
        UserError: The export fails; gives the reason.
    """
    width, height = (side + -side % (multiple or 1) for side in size)
    network: nn.Module = exported
    if multiple == _LARGEST_STRIDE and has_same_padding(exported):
        network = with_fixed_padding(exported).eval()
    try:
        torch.onnx.export(
            network,
            (torch.rand(2, 3, height, width),),
            path,
            input_names=[IMAGES],
            output_names=[EMBEDDINGS],
            dynamic_shapes={"images": _dynamic_sides(exported, multiple)},
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # torch re-raises any error inside the network
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise UserError(
            f"this network cannot be exported for these sizes ({reason}). Pass size=[width,height]."
        ) from error
    _name_axes(path, any_size=multiple is not None)


def _dynamic_sides(exported: ExportedEmbedder, multiple: int | None) -> dict[int, Any]:
    """Return the dynamic dimensions of `images`, in the format of torch.export."""
    automatic = torch.export.Dim.DYNAMIC
    if multiple is None:
        return {0: automatic}
    if multiple == 1 or exported.embedder.backbone.dynamic:
        return {0: automatic, 2: automatic, 3: automatic}
    rows, columns = (multiple * torch.export.Dim(name, min=1) for name in ("rows", "columns"))
    return {0: torch.export.Dim("batch"), 2: rows, 3: columns}


def _name_axes(path: Path, any_size: bool) -> None:
    """Name the dynamic dimensions batch, height and width instead of torch.export's symbols.

    Raises:
        UserError: A dynamic dimension was exported as a number.
    """
    import onnx

    model = onnx.load(path)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    names = {}
    for axis, name in AXES.items():
        if axis and not any_size:
            continue
        if sides[axis].HasField("dim_value"):
            raise UserError(
                f"this network was exported for one {name} only. Pass size=[width,height]."
            )
        names[sides[axis].dim_param] = name
        sides[axis].dim_param = name
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if symbols := set(_SYMBOL.findall(dim.dim_param)):
                text = _SYMBOL.sub(lambda match: names.get(match[0], ""), dim.dim_param)
                # Dimensions between the layers may depend on symbols that have no name.
                dim.dim_param = text if symbols <= names.keys() else ""
    onnx.save(model, path)


def add_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Write `metadata` into the file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def largest_difference(
    exported: ExportedEmbedder, path: Path, sizes: Sequence[Size]
) -> tuple[float, str]:
    """Compare the file in ONNX Runtime with PyTorch, at several sizes and batch sizes.

    Args:
        exported: Exported network.
        path: ONNX file.
        sizes: (width, height) of the images.

    Returns:
        The largest difference of a component of the unit-length embeddings or, relative, of their
        norm; and the images for which it occurs.

    Raises:
        UserError: ONNX Runtime rejects the file or a batch.
    """
    import onnxruntime

    worst, case = -1.0, ""
    generator = torch.Generator().manual_seed(0)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for number, (width, height) in enumerate(sizes):
            for batch in {1, _BATCHES[number % len(_BATCHES)]}:
                images = torch.rand(batch, 3, height, width, generator=generator)
                with torch.inference_mode():
                    expected = exported(images)
                actual = torch.from_numpy(session.run(None, {IMAGES: images.numpy()})[0])
                difference = _difference(actual, expected)
                if not difference <= worst:
                    worst, case = difference, f"{batch} of {width}x{height}"
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        text = " ".join(str(error).split())
        raise UserError(
            f"ONNX Runtime cannot run the network ({text}). Pass another opset."
        ) from error
    return worst, case


def _difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    norms, expected_norms = (vectors.norm(dim=1, keepdim=True) for vectors in (actual, expected))
    direction = (actual / norms - expected / expected_norms).abs().max()
    norm = (norms / expected_norms - 1).abs().max()
    return float(torch.maximum(direction, norm))
