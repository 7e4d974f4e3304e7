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
    centres, which the optimizer needs, memory is a few blocks of (B, `block`). On a CPU the memory
    of that gradient is kept for the next step. Cosines are computed twice, forward and backward,
    and each pass reads the centres once.

    In float32 the loss and both gradients (Frobenius norm) differ from float64 by about 1e-7 of
    their value. In bf16 a cosine to another class is wrong by at most 2^-8, and the loss thus by at
    most `scale` / 256; with CurricularFace by three times this, and by more where that decides
    whether a class at the target's cosine is hard. Typical are below 1e-3 of the loss and 1e-2 of
    the gradients. The cosine to the own class and all sums stay float32.

    Args:
        block: Classes per block. None means 4,096 on the CPU, where a block fits the caches, and
            65,536 on other devices, where many small kernels are slow.
        precision: Of the products of embeddings, centres and the gradients of cosines: float32;
            bf16, which rounds their factors to bfloat16 (on a GPU to TF32) and sums in float32; or
            auto, which is bf16 where the hardware has it and it is faster.
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
