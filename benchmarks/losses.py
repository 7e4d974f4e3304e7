"""Losses, forward and backward: ours and pytorch-metric-learning's, or a plain softmax.

Losses that pytorch-metric-learning lacks are compared with a softmax over normalised embeddings and
centres, which has no margin to compute. A ratio below 1 means that ours is faster.

python benchmarks/losses.py
python benchmarks/losses.py --classes 81313 --rounds 5

Both losses of a line run in turns in this process on the same embeddings. The medians over the
rounds are compared.
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from peer_losses import PlainSoftmax
from pytorch_metric_learning import losses as peers

from landmark import loss as ours


def pairs(dim, classes):
    """Return the name of each loss, our loss and its alternative."""
    counts = np.random.default_rng(0).integers(1, 300, classes)
    shape = (dim, classes)
    peer_shape = {"num_classes": classes, "embedding_size": dim}

    def plain(centres=1):
        return PlainSoftmax(*shape, scale=64, centres=centres)

    return [
        ("arcface", ours.ArcFace(*shape), peers.ArcFaceLoss(**peer_shape)),
        ("cosface", ours.CosFace(*shape), peers.CosFaceLoss(**peer_shape)),
        (
            "subcenter_arcface",
            ours.SubCenterArcFace(*shape),
            peers.SubCenterArcFaceLoss(**peer_shape),
        ),
        ("sphereface", ours.SphereFace(*shape), peers.SphereFaceLoss(**peer_shape)),
        ("p2sgrad", ours.P2SGrad(*shape), peers.P2SGradLoss(dim, classes)),
        ("adacos", ours.AdaCos(*shape), plain()),
        ("curricularface", ours.CurricularFace(*shape), plain()),
        ("adaface", ours.AdaFace(*shape), plain()),
        ("magface", ours.MagFace(*shape), plain()),
        ("elasticface", ours.ElasticFace(*shape), plain()),
        ("combined", ours.CombinedMargin(*shape), plain()),
        ("dynamic_margin", ours.DynamicMargin(*shape, class_counts=counts), plain(centres=3)),
        ("smooth_ap", ours.SmoothAP(*shape), peers.SmoothAPLoss()),
    ]


def seconds(loss, embeddings, labels):
    """Return the seconds of one forward and backward pass."""
    loss.zero_grad(set_to_none=True)
    inputs = embeddings.clone().requires_grad_()
    start = time.perf_counter()
    loss(inputs, labels).backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="photos, 4 per landmark")
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
    for name, loss, peer in pairs(options.dim, options.classes):
        times = [
            (seconds(loss, embeddings, labels), seconds(peer, embeddings, labels))
            for _ in range(options.rounds + 1)
        ][1:]
        our_time, peer_time = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:<18} {1000 * our_time:6.1f} ms {1000 * peer_time:6.1f} ms "
            f"{our_time / peer_time:6.2f}  {type(peer).__name__}",
            flush=True,
        )


if __name__ == "__main__":
    main()
