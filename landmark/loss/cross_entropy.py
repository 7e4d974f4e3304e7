"""Cross entropy that refuses labels which are no class."""

import torch
from torch import Tensor
from torch.nn import functional

from landmark.error import UserError

# F.cross_entropy passes over targets equal to `ignore_index`, -100 by default; no label is this.
_NO_LABEL = torch.iinfo(torch.int64).min


class LabelError(UserError, ValueError):
    """A label that is none of the classes which a loss was made for."""


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels outside 0 ... num_classes - 1 without making a GPU wait.

    Labels on the CPU are looked at here. Elsewhere reading them would stall every step, so the
    kernels that index with them (gather, cross entropy) stop at their own device assertion.

    Args:
        labels: Class of each embedding, (B,).
        num_classes: Number of classes.

    Raises:
        LabelError: A label on the CPU is out of range.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"labels run from {low} to {high}, but the loss has the {num_classes} classes "
            f"0 to {num_classes - 1}: make it for as many classes as the data has"
        )


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each photo, in which every label counts.

    Args:
        logits: (B, C), float32 or wider.
        labels: (B,) int64.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7).

    Returns:
        (B,).
    """
    return functional.cross_entropy(
        logits,
        labels,
        ignore_index=_NO_LABEL,
        label_smoothing=label_smoothing,
        reduction="none",
    )


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one dtype that is float32 or wider, whatever autocast made of them."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
