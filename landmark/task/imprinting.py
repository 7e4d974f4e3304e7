"""Class centres initialised from the embeddings of their photos."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from landmark.error import UserError
from landmark.head.head import Head
from landmark.loss.margin import MarginLoss
from landmark.processes import total


@torch.no_grad()
def imprint(embedder: nn.Module, loss: nn.Module, batches: Iterable[Any]) -> None:
    """Set each class centre to the normalised mean of its photos' unit-length embeddings.

    Sub-centres of a class start near that mean, each with seeded noise of about a tenth of its
    length: identical ones would receive identical gradients. Under DDP each rank passes its share
    of the photos, and all ranks get the same centres, or their shard of them.

    Args:
        embedder: Images → embeddings (B, D).
        loss: Loss whose `weight` contains the centres: (C, D), (C · K, D) with `sub_centres` K, or
            a shard.
        batches: Images (B, 3, h, w), labels (B,), rows (B,), negative for skipped photos.

    Raises:
        UserError: The loss has no class centres, or a class has no usable photo.

    Source:
        Qi, Brown, Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018, section 3.2.
    """
    weight = getattr(loss, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise UserError("task.imprint: this loss has no class centres. Pass task.imprint=false.")
    num_classes = getattr(loss, "num_classes", len(weight))
    sub_centres = getattr(loss, "sub_centres", 1)
    was_training = embedder.training
    embedder.eval()
    sums = weight.new_zeros(num_classes, weight.shape[1], dtype=torch.float32)
    for images, labels, rows in batches:
        embeddings = embedder(images.to(weight.device)).float()
        unit = torch.nn.functional.normalize(embeddings, dim=1)[rows >= 0]
        sums.index_add_(0, labels[rows >= 0].to(weight.device), unit)
    sums = total(sums)
    if not bool((sums.norm(dim=1) > 0).all()):
        raise UserError("task.imprint: a landmark has no usable photo. Pass task.imprint=false.")
    centres = torch.nn.functional.normalize(sums, dim=1)
    if sub_centres > 1:
        centres = _repeat_with_noise(centres, sub_centres)
    if isinstance(loss, MarginLoss) and isinstance(loss.head, Head):
        centres = loss.head.shard(loss, centres)
    weight.copy_(centres)
    embedder.train(was_training)


def _repeat_with_noise(centres: Tensor, times: int) -> Tensor:
    """Repeat each centre (C, D) `times` times with noise, normalised: (C · K, D)."""
    repeated = centres.repeat_interleave(times, dim=0)
    noise = torch.randn(repeated.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.normalize(noise, dim=1).to(repeated.device)
    return torch.nn.functional.normalize(repeated + 0.1 * noise, dim=1)
