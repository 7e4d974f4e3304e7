"""Class centres initialised from the embeddings of their photos."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from landmark.error import UserError
from landmark.head.head import Head
from landmark.loss.margin import MarginLoss
from landmark.loss.nested import losses_by_dim
from landmark.processes import total


@torch.no_grad()
def imprint(embedder: nn.Module, loss: nn.Module, batches: Iterable[Any]) -> None:
    """Set each class centre to the normalised mean of its photos' unit-length embeddings.

    Sub-centres of a class start near that mean, each with seeded noise of about a tenth of its
    length: identical ones would receive identical gradients. Under DDP each rank passes its share
    of the photos, and all ranks get the same centres, or their shard of them. Each loss of a nested
    one is imprinted with its own dimensions.

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
    losses = losses_by_dim(loss, 0)
    weights = [_centres(one) for _, one in losses]
    if any(weight is None for weight in weights):
        raise UserError("task.imprint: this loss has no class centres. Pass task.imprint=false.")
    was_training = embedder.training
    embedder.eval()
    sums = [
        weight.new_zeros(getattr(one, "num_classes", len(weight)), weight.shape[1]).float()
        for weight, (_, one) in zip(weights, losses, strict=True)
        if weight is not None
    ]
    for images, labels, rows in batches:
        embeddings = embedder(images.to(sums[0].device)).float()[rows >= 0]
        for each in sums:
            unit = torch.nn.functional.normalize(embeddings[:, : each.shape[1]], dim=1)
            each.index_add_(0, labels[rows >= 0].to(each.device), unit)
    for each, (_, one) in zip(sums, losses, strict=True):
        _set_centres(one, total(each))
    embedder.train(was_training)


def _centres(loss: nn.Module) -> Tensor | None:
    weight = getattr(loss, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _set_centres(loss: nn.Module, sums: Tensor) -> None:
    """Set the class centres of a loss to the direction of the sums (C, D) of embeddings."""
    if not bool((sums.norm(dim=1) > 0).all()):
        raise UserError("task.imprint: a landmark has no usable photo. Pass task.imprint=false.")
    centres = torch.nn.functional.normalize(sums, dim=1)
    sub_centres = getattr(loss, "sub_centres", 1)
    if sub_centres > 1:
        centres = _repeat_with_noise(centres, int(sub_centres))
    if isinstance(loss, MarginLoss) and isinstance(loss.head, Head):
        centres = loss.head.shard(loss, centres)
    loss.weight.copy_(centres)  # type: ignore[operator]


def _repeat_with_noise(centres: Tensor, times: int) -> Tensor:
    """Repeat each centre (C, D) `times` times with noise, normalised: (C · K, D)."""
    repeated = centres.repeat_interleave(times, dim=0)
    noise = torch.randn(repeated.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.normalize(noise, dim=1).to(repeated.device)
    return torch.nn.functional.normalize(repeated + 0.1 * noise, dim=1)
