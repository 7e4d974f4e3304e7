"""Class centres that start where the network already puts the classes."""

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from landmark.error import UserError
from landmark.head.head import Head
from landmark.loss.margin import MarginLoss


@torch.no_grad()
def imprint(embedder: nn.Module, loss: nn.Module, batches: DataLoader) -> None:
    """Sets each class centre to the mean of its photos' unit-length embeddings, unit length again.

    Where a class has several centres, all begin near that mean, each moved at random (always alike)
    by about a tenth of its length: at one and the same place they would never part.

    Under DDP each process brings its share of the photos; all end with the same centres, or with
    those that a class-parallel head gave them.

    Args:
        embedder: images → embeddings (B, D).
        loss: has the centres as `weight` (C, D), or (C · K, D) where it has `sub_centres` K, or
            this process's share of them.
        batches: images (B, 3, h, w), labels (B,), rows (B,), negative where the image only stands
            for a skipped photo; this process's share.

    Raises:
        UserError: the loss has no such centres, or a class has no photo.

    Source:
        Qi, Brown, Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018, section 3.2.
    """
    weight = getattr(loss, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise UserError("task.imprint: this loss has no class centres; use imprint=false")
    classes = getattr(loss, "num_classes", len(weight))
    centres_a_class = getattr(loss, "sub_centres", 1)
    was_training = embedder.training
    embedder.eval()
    total = weight.new_zeros(classes, weight.shape[1], dtype=torch.float32)
    for images, labels, rows in batches:
        embeddings = embedder(images.to(weight.device)).float()
        unit = torch.nn.functional.normalize(embeddings, dim=1)[rows >= 0]
        total.index_add_(0, labels[rows >= 0].to(weight.device), unit)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    if not bool((total.norm(dim=1) > 0).all()):
        raise UserError("task.imprint: a landmark has no photo to take its centre from")
    centres = torch.nn.functional.normalize(total, dim=1)
    if centres_a_class > 1:
        centres = _spread(centres, centres_a_class)
    if isinstance(loss, MarginLoss) and isinstance(loss.head, Head):
        centres = loss.head.shard(loss, centres)
    weight.copy_(centres)
    embedder.train(was_training)


def _spread(centres: Tensor, times: int) -> Tensor:
    """Each of the centres (C, D) `times` times with a little noise, of unit length: (C · K, D)."""
    several = centres.repeat_interleave(times, dim=0)
    noise = torch.randn(several.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.normalize(noise, dim=1).to(several.device)
    return torch.nn.functional.normalize(several + 0.1 * noise, dim=1)
