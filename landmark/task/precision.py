"""Choose the precision of a training: measure a step in float32 and in bfloat16."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from landmark.device import MIN_SPEEDUP, multiplies_bf16, seconds_of
from landmark.model.embedder import Embedder

TrainerPrecision = Literal["32-true", "bf16-mixed"]
_ROUNDS = 3


def measured_precision(
    embedder: Embedder, image_size: tuple[int, int], batch_size: int, device: torch.device
) -> tuple[TrainerPrecision, str]:
    """Choose bf16-mixed if the embedder's passes are faster; neither it nor a random state changes.

    A copy embeds random images of one size, forward and backward. The loss is left out: it computes
    in float32 in both precisions.

    Args:
        embedder: Embedder to train.
        image_size: (width, height) of the images.
        batch_size: Images of a step.
        device: Device of the training.

    Returns:
        The precision, and the line that says why.
    """
    if not multiplies_bf16(device):
        why = f"since this {device.type} has no bfloat16 products"
        return "32-true", f"trainer.precision=auto: 32-true, {why}."
    width, height = image_size
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    trained = copy.deepcopy(embedder).to(device).train()
    steps = [lambda: _step(trained, images, is_half=False), lambda: _step(trained, images, True)]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        single, half = _fastest(steps, device)
    precision: TrainerPrecision = "bf16-mixed" if single >= MIN_SPEEDUP * half else "32-true"
    return precision, (
        f"trainer.precision=auto: {precision}. A step of the embedder takes {half:.3g} s in "
        f"bf16-mixed and {single:.3g} s in 32-true ({single / half:.2f} x, at least "
        f"{MIN_SPEEDUP} x is needed). Pass trainer.precision={precision} to skip the measurement."
    )


def _fastest(steps: list[Callable[[], None]], device: torch.device) -> list[float]:
    """Return the fewest seconds of each step over rounds in turns, after a warm-up."""
    rounds = [[seconds_of(step, device) for step in steps] for _ in range(_ROUNDS)]
    return [min(times) for times in zip(*rounds[1:], strict=True)]


def _step(embedder: Embedder, images: Tensor, is_half: bool) -> None:
    with torch.autocast(images.device.type, torch.bfloat16) if is_half else nullcontext():
        value = embedder(images).float().square().mean()
    if value.requires_grad:
        value.backward()
    embedder.zero_grad(set_to_none=True)
