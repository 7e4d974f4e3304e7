"""Losses beside the main one, each times its weight."""

from collections.abc import Mapping

from torch import Tensor, nn

from landmark.error import UserError


class AuxiliaryLosses(nn.Module):
    """Some losses of the same embeddings, to be added to a main one.

    Args:
        losses: by name; embeddings (B, D), labels (B,) → scalar.
        weights: by name, each above 0.

    Raises:
        UserError: A weight is not above 0.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        for name in losses:
            weight = weights[name]
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                raise UserError(f"auxiliary.{name}.weight={weight} must be a number above 0")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights[name]) for name in losses}

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The value of each loss, before its weight: embeddings (B, D), labels (B,)."""
        return {name: loss(embeddings, labels) for name, loss in self.losses.items()}

    def total(self, main: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The main loss plus each value times its weight."""
        for name, value in values.items():
            main = main + self.weights[name] * value
        return main
