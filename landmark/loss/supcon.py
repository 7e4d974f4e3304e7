"""Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362)."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class SupCon(LibraryPairLoss):
    """Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2).

    For each photo the mean over its positives p of -log(exp(s_p / temperature) / sum over all other
    photos of exp(s / temperature)) with s the cosines; the mean over the photos with positives.
    A batch of one landmark alone gives 0.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        temperature: Divides the cosines.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, a label on the CPU is no class, or no two photos
            of the batch share a class.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        temperature: float = 0.1,
    ) -> None:
        from pytorch_metric_learning import losses

        if temperature <= 0:
            raise UserError(f"loss.temperature={temperature} must be above 0")
        super().__init__(embedding_dim, num_classes, losses.SupConLoss(temperature=temperature))
