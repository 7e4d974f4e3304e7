"""Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627)."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class MultiSimilarity(LibraryPairLoss):
    """Multi-similarity loss with its mining (Wang et al. 2019, arXiv 1904.06627).

    Section 3.3, equations 10 to 12 for the mining and 15 for the loss:
    A positive pair counts if its cosine is below the highest of the photo's negatives plus
    `mining_margin`, a negative if it is above the lowest of the positives minus it. The loss of a
    photo is log(1 + sum of exp(-alpha * (s - base)) over its positives) / alpha
    + log(1 + sum of exp(beta * (s - base)) over its negatives) / beta; the mean over all photos.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        alpha: Sharpness on the positives.
        beta: Sharpness on the negatives.
        base: Cosine about which both are measured; 0.5 in the authors' code.
        mining_margin: The paper's epsilon.

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
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        mining_margin: float = 0.1,
    ) -> None:
        from pytorch_metric_learning import losses, miners

        if alpha <= 0 or beta <= 0:
            raise UserError(f"loss.alpha={alpha} and loss.beta={beta} must be above 0")
        super().__init__(
            embedding_dim,
            num_classes,
            losses.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base),
            miners.MultiSimilarityMiner(epsilon=mining_margin),
        )
