"""Naive cosines and cross entropies, sample by sample, for the tests of the losses."""

import math

import torch
from hypothesis import strategies as st

DIM, CLASSES = 8, 6
seeds = st.integers(0, 2**32 - 1)
smoothings = st.sampled_from([0.0, 0.1, 0.4])


def batch(seed: int, size: int = 7, classes: int = CLASSES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(size, DIM, generator=generator, dtype=dtype)
    return embeddings, torch.randint(classes, (size,), generator=generator)


def fresh(loss: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Return the loss in float64 with new random centres; AdaCos keeps its scale in float32."""
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in loss.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = drawn
    return loss


def cosines_of(embeddings, weight) -> list[list[float]]:
    rows, centres = embeddings.tolist(), weight.detach().tolist()
    return [
        [
            sum(a * b for a, b in zip(x, w, strict=True)) / (math.hypot(*x) * math.hypot(*w))
            for w in centres
        ]
        for x in rows
    ]


def naive_cross_entropy(logits: list[list[float]], labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        top = max(row)
        log_sum = top + math.log(sum(math.exp(z - top) for z in row))
        for j, z in enumerate(row):
            share = smoothing / len(row) + (1 - smoothing) * (j == label)
            total -= share * (z - log_sum)
    return total / len(labels)
