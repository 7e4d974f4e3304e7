"""Cross entropy of each photo, and the checks and precision that all losses share."""

import torch
from torch import Tensor
from torch.nn import functional

from landmark.error import UserError

# F.cross_entropy skips targets equal to `ignore_index`, -100 by default. No label has this value.
_NO_LABEL = torch.iinfo(torch.int64).min


class LabelError(UserError, ValueError):
    """A label outside the classes of a loss."""


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check that labels are in 0 … num_classes - 1, without a device synchronisation.

    Only labels on the CPU are read. On a GPU reading them would stall every step; there the kernels
    that index with them (gather, cross entropy) fail with their own device assertion.

    Args:
        labels: Class of each embedding, (B,).
        num_classes: Number of classes.

    Raises:
        LabelError: A label on the CPU is out of range.

    Example:
        >>> import torch
        >>> check_labels(torch.tensor([0, 5]), num_classes=5)
        Traceback (most recent call last):
        landmark.loss.cross_entropy.LabelError: labels run from 0 to 5, but the loss has the ...
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"labels run from {low} to {high}, but the loss has the {num_classes} classes 0 to "
            f"{num_classes - 1}. Create the loss with the number of classes of the data."
        )


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the cross entropy of each photo; no label is ignored.

    Args:
        logits: (B, C), float32 or wider.
        labels: (B,) int64.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7).

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> [round(loss, 4) for loss in cross_entropy(logits, torch.tensor([0, 1])).tolist()]
        [0.1269, 0.6931]
    """
    return functional.cross_entropy(
        logits,
        labels,
        ignore_index=_NO_LABEL,
        label_smoothing=label_smoothing,
        reduction="none",
    )


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Convert tensors to one dtype, float32 or wider, whatever autocast made of them."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
