"""Losses forward and backward: ours beside pytorch-metric-learning's, and beside a plain softmax.

A ratio below 1: ours is faster. Losses that pytorch-metric-learning lacks stand beside a softmax
over normalised embeddings and centres, which has no margin to compute.

python benchmarks/losses.py
python benchmarks/losses.py --classes 81313 --rounds 5

Both sides of a line run in turns in this process on the same embeddings and, where they have the
same formula, the same centres. The median over the rounds is compared.
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from pytorch_metric_learning import losses as peers
from torch import nn
from torch.nn import functional

from landmark import loss as ours


class PlainSoftmax(nn.Module):
    """Normalise, multiply, cross entropy, as one would write it by hand."""

    def __init__(self, dim, classes, centres=1):
        super().__init__()
        self.centres = centres
        self.weight = nn.Parameter(torch.randn(classes * centres, dim))

    def forward(self, embeddings, labels):
        """Mean cross entropy at scale 64."""
        cosines = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )
        if self.centres > 1:
            cosines = cosines.view(len(labels), -1, self.centres).amax(2)
        return functional.cross_entropy(64 * cosines, labels)


def pairs(dim, classes):
    """Name, ours, what it stands beside."""
    counts = np.random.default_rng(0).integers(1, 300, classes)
    own = (dim, classes)
    theirs = {"num_classes": classes, "embedding_size": dim}
    return [
        ("arcface", ours.ArcFace(*own), peers.ArcFaceLoss(**theirs)),
        ("cosface", ours.CosFace(*own), peers.CosFaceLoss(**theirs)),
        ("subcenter_arcface", ours.SubCenterArcFace(*own), peers.SubCenterArcFaceLoss(**theirs)),
        ("sphereface", ours.SphereFace(*own), peers.SphereFaceLoss(**theirs)),
        ("p2sgrad", ours.P2SGrad(*own), peers.P2SGradLoss(dim, classes)),
        ("adacos", ours.AdaCos(*own), PlainSoftmax(*own)),
        ("curricularface", ours.CurricularFace(*own), PlainSoftmax(*own)),
        ("adaface", ours.AdaFace(*own), PlainSoftmax(*own)),
        ("magface", ours.MagFace(*own), PlainSoftmax(*own)),
        ("elasticface", ours.ElasticFace(*own), PlainSoftmax(*own)),
        ("combined", ours.CombinedMargin(*own), PlainSoftmax(*own)),
        (
            "dynamic_margin",
            ours.DynamicMargin(*own, class_counts=counts),
            PlainSoftmax(*own, centres=3),
        ),
        ("smooth_ap", ours.SmoothAP(*own), peers.SmoothAPLoss()),
    ]


def seconds(loss, embeddings, labels):
    """Of one forward and backward pass."""
    loss.zero_grad(set_to_none=True)
    inputs = embeddings.clone().requires_grad_()
    began = time.perf_counter()
    loss(inputs, labels).backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="photos, 4 of each landmark")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    torch.manual_seed(0)
    embeddings = torch.randn(options.batch, options.dim)
    labels = torch.randperm(options.classes)[: math.ceil(options.batch / 4)]
    labels = labels.repeat_interleave(4)[: options.batch]
    print(f"batch {options.batch}, {options.dim}-d, {options.classes:,} classes")
    print(f"{'loss':<18} {'ours':>9} {'other':>9} {'ratio':>6}  other")
    for name, own, other in pairs(options.dim, options.classes):
        times = [
            (seconds(own, embeddings, labels), seconds(other, embeddings, labels))
            for _ in range(options.rounds + 1)
        ][1:]
        mine, theirs = (statistics.median(side) for side in zip(*times, strict=True))
        print(
            f"{name:<18} {1000 * mine:6.1f} ms {1000 * theirs:6.1f} ms {mine / theirs:6.2f}  "
            f"{type(other).__name__}",
            flush=True,
        )


if __name__ == "__main__":
    main()
