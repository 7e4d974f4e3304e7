"""ArcFace, forward and backward, over many classes: our heads and pytorch-metric-learning's.

    python benchmarks/heads.py
    python benchmarks/heads.py --classes 203094 --rounds 5

Beside them runs what most would write: normalise, linear, cross entropy. Each way has a process of
its own, in turns, as often as there are rounds. Printed are the fastest step (forward and backward,
gradients dropped before it) and its ratio to both others; the peak resident memory of the whole
process; and the memory of activations: what the step needs at its peak beyond what was there before
it, less the dense gradient of the centres where there is one.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

OURS = ("full", "fused", "sampled")
OTHERS = ("pytorch-metric-learning", "normalise + linear")


def make(way: str, classes: int, dim: int, ratio: float) -> tuple[Callable, Callable]:
    """The loss of embeddings and labels, and its centres' gradient."""
    import torch
    from torch.nn import functional

    if way == "pytorch-metric-learning":
        from pytorch_metric_learning.losses import ArcFaceLoss

        peer = ArcFaceLoss(classes, dim, margin=17.19, scale=30)
        return peer, lambda: peer.W
    if way == "normalise + linear":
        weight = torch.nn.Parameter(torch.empty(classes, dim))
        torch.nn.init.xavier_uniform_(weight)

        def plain(embeddings, labels):
            cosines = functional.linear(
                functional.normalize(embeddings), functional.normalize(weight)
            )
            return functional.cross_entropy(30 * cosines, labels)

        return plain, lambda: weight
    from landmark.head import Full, Fused, Sampled
    from landmark.loss import ArcFace

    ours = ArcFace(dim, classes)
    {"full": Full(), "fused": Fused(), "sampled": Sampled(ratio)}[way].attach(ours)
    return ours, lambda: ours.weight


def resident(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def measure(way: str, options: argparse.Namespace, answers: multiprocessing.SimpleQueue) -> None:
    """Puts seconds a step, bytes at the peak and bytes of activations."""
    import torch

    torch.manual_seed(0)
    loss, centres = make(way, options.classes, options.dim, options.ratio)
    embeddings = torch.randn(options.batch, options.dim, requires_grad=True)
    labels = torch.randint(options.classes, (options.batch,))
    seconds, activations = [], 0
    for _ in range(options.repeats + 1):
        embeddings.grad = centres().grad = None
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        start = time.perf_counter()
        loss(embeddings, labels).backward()
        seconds.append(time.perf_counter() - start)
        gradient = centres().grad
        kept = 0 if gradient.is_sparse else gradient.numel() * gradient.element_size()
        activations = max(activations, resident("VmHWM") - before - kept)
    answers.put((min(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, activations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ratio", type=float, default=0.1, help="of the sampled head")
    parser.add_argument("--repeats", type=int, default=5, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[tuple[float, int, int]]] = {way: [] for way in (*OURS, *OTHERS)}
    for _ in range(options.rounds):
        for way, rounds in found.items():
            answers = context.SimpleQueue()
            process = context.Process(target=measure, args=(way, options, answers))
            process.start()
            rounds.append(answers.get())
            process.join()
    best = {way: tuple(map(min, zip(*rounds, strict=True))) for way, rounds in found.items()}
    print(f"batch {options.batch}, {options.dim}-d, {options.classes:,} classes, float32")
    for way, (seconds, peak, activations) in best.items():
        print(
            f"{way:<24} {seconds:7.3f} s   process {peak / 2**20:5.2f} GB   "
            f"activations {activations / 2**20:7.1f} MB"
        )
    for way in OURS[1:]:
        for other in OTHERS:
            time_ratio = best[way][0] / best[other][0]
            memory_ratio = best[way][2] / best[other][2]
            print(
                f"{way} / {other}: {time_ratio:.2f} of the time, "
                f"{memory_ratio:.2f} of the activations"
            )


if __name__ == "__main__":
    main()
