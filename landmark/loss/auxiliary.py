"""Weighted auxiliary losses, added to the main loss."""

from collections.abc import Mapping

from pydantic import PositiveFloat
from torch import Tensor, nn

from landmark.loss.distil import targets_of
from landmark.settings import check_value


class AuxiliaryLosses(nn.Module):
    """Weighted losses of the same embeddings, added to a main loss.

    Args:
        losses: Losses by name, each from embeddings (B, D) and labels (B,), or for a distillation
            the teacher's vectors (B, T), to a scalar.
        weights: Factors by name, each above 0.

    Raises:
        UserError: A weight is not above 0.

    Example:
        >>> import torch
        >>> from landmark.loss import SupCon
        >>> auxiliary = AuxiliaryLosses({"supcon": SupCon(2, 2)}, {"supcon": 0.5})
        >>> auxiliary.total(torch.tensor(3.0), {"supcon": torch.tensor(2.0)}).item()
        4.0
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        for name in losses:
            check_value(f"auxiliary.{name}.weight", weights[name], PositiveFloat)
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights[name]) for name in losses}

    def forward(
        self, embeddings: Tensor, labels: Tensor, vectors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute each loss without its weight.

        Args:
            embeddings: (B, D).
            labels: (B,).
            vectors: The teacher's (B, T), for a distillation. Defaults to none.
        """
        return {
            name: loss(embeddings, targets_of(loss, labels, vectors))
            for name, loss in self.losses.items()
        }

    def total(self, main: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Add each value times its weight to the main loss."""
        for name, value in values.items():
            main = main + self.weights[name] * value
        return main
