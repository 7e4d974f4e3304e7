"""Base of all losses: label checks and full precision."""

import torch
from torch import Tensor, nn

from landmark.error import UserError


class LabelError(UserError, ValueError):
    """A label outside the classes of a loss."""


class Loss(nn.Module):
    """A loss over the embeddings and labels of a batch; a subclass overrides `compute`.

    Computed in float32 or wider with autocast disabled.

    Attributes:
        num_classes: Number of classes C.

    Raises:
        LabelError: A label on the CPU is not a class (see `check_labels` for other devices).

    Example:
        >>> class MeanNorm(Loss):
        ...     num_classes = 2
        ...
        ...     def compute(self, embeddings, labels):
        ...         return embeddings.norm(dim=1).mean()
        >>> MeanNorm()(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).item()
        5.0
    """

    num_classes: int

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch: embeddings (B, D), labels (B,) → scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            (embeddings,) = full_precision(embeddings)
            return self.compute(embeddings, labels)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss: embeddings (B, D) in float32 or wider, checked labels (B,) → scalar."""
        raise NotImplementedError


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check that labels are in 0 … num_classes - 1, without a device synchronisation.

    Only labels on the CPU are read. Reading them on a GPU would stall every step; the kernels that
    index with them (gather, cross entropy) raise a device assertion instead.

    Args:
        labels: Class of each embedding, (B,).
        num_classes: Number of classes.

    Raises:
        LabelError: A label on the CPU is out of range.

    Example:
        >>> import torch
        >>> check_labels(torch.tensor([0, 5]), num_classes=5)
        Traceback (most recent call last):
        landmark.loss.base.LabelError: labels run from 0 to 5, but the loss has the ...
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"labels run from {low} to {high}, but the loss has the {num_classes} classes 0 to "
            f"{num_classes - 1}. Create the loss with the number of classes of the data."
        )


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Promote tensors, such as autocast's half-precision ones, to one dtype of float32 or wider.

    Example:
        >>> import torch
        >>> half, double = torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.float64)
        >>> [tensor.dtype for tensor in full_precision(half)]
        [torch.float32]
        >>> [tensor.dtype for tensor in full_precision(half, double)]
        [torch.float64, torch.float64]
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
