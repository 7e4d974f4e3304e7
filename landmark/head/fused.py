"""All classes, block by block."""

from pydantic import PositiveInt
from torch import Tensor

from landmark.head.class_shard import ClassShard
from landmark.head.head import Head
from landmark.head.products import ProductPrecision
from landmark.loss.margin import MarginLoss
from landmark.settings import checked


class Fused(Head):
    """The loss and gradients of `Full`, computed block by block in less memory.

    Neither the normalised centres nor the cosines ever exist in full: beyond the gradient of the
    centres, which the optimizer needs, memory is a few blocks of (B, `block`). Cosines are computed
    twice, forward and backward, and each pass reads the centres once.

    Args:
        block: Classes per block. None means 4,096 on the CPU, where a block fits the caches, and
            65,536 on other devices, where many small kernels are slow.
        precision: Precision of the products between embeddings, centres and their gradients.
            float32 is exact to rounding; bf16 rounds the factors to bfloat16 (on a GPU to TF32) and
            sums in float32; auto is bf16 where the hardware has it and it is faster. ERRORS
    """

    @checked
    def __init__(
        self, block: PositiveInt | None = None, precision: ProductPrecision = "float32"
    ) -> None:
        self.block = block
        self.precision = precision

    def class_shard(self, loss: MarginLoss, labels: Tensor) -> ClassShard:  # noqa: ARG002
        """Return all classes."""
        return ClassShard(loss, self.block, precision=self.precision)
