"""ArcFace, forward and backward, over many classes: our heads and pytorch-metric-learning's.

    python benchmarks/heads.py
    python benchmarks/heads.py --classes 203094 --rounds 5

The second alternative is normalise, linear, cross entropy. Each head runs in a new process in each
round, in turns. Prints the fastest step (forward and backward; gradients are dropped before it) and
its ratio to both alternatives, the peak resident memory of the process, and the memory of the
activations: the peak of a step over the memory before it, less the dense gradient of the centres.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from _process import GIB, MIB, own_memory, run_in_new_process
from peer_losses import PlainSoftmax, PytorchMetricLearning

OURS = ("full", "fused", "sampled")
PEERS = ("pytorch-metric-learning", "normalise + linear")


def build(
    name: str, classes: int, dim: int, ratio: float
) -> tuple[torch.nn.Module, torch.nn.Parameter]:
    """Return the loss and its class centres."""
    if name == "pytorch-metric-learning":
        peer = PytorchMetricLearning(dim, classes)
        return peer, peer.peer.W
    if name == "normalise + linear":
        peer = PlainSoftmax(dim, classes)
        return peer, peer.weight
    # Imported here, so that the memory of the alternatives does not include it.
    from landmark.head import Full, Fused, Sampled
    from landmark.loss import ArcFace

    loss = ArcFace(dim, classes)
    {"full": Full(), "fused": Fused(), "sampled": Sampled(ratio)}[name].attach(loss)
    return loss, loss.weight


def measure(name: str, options: argparse.Namespace) -> tuple[float, int, int]:
    """Return the seconds per step, the bytes at the peak and the bytes of activations."""
    torch.manual_seed(0)
    loss, centres = build(name, options.classes, options.dim, options.ratio)
    embeddings = torch.randn(options.batch, options.dim, requires_grad=True)
    labels = torch.randint(options.classes, (options.batch,))
    seconds, activations = [], 0
    for _ in range(options.repeats + 1):
        embeddings.grad = centres.grad = None
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = own_memory("VmRSS")
        start = time.perf_counter()
        loss(embeddings, labels).backward()
        seconds.append(time.perf_counter() - start)
        gradient = centres.grad
        dense = 0 if gradient.is_sparse else gradient.numel() * gradient.element_size()
        activations = max(activations, own_memory("VmHWM") - before - dense)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return min(seconds[1:]), peak, activations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ratio", type=float, default=0.1, help="ratio of the sampled head")
    parser.add_argument("--repeats", type=int, default=5, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, int, int]]] = {name: [] for name in (*OURS, *PEERS)}
    for _ in range(options.rounds):
        for name, rounds in results.items():
            rounds.append(run_in_new_process(measure, name, options))
    best = {name: tuple(map(min, zip(*rounds, strict=True))) for name, rounds in results.items()}
    print(f"batch {options.batch}, {options.dim}-d, {options.classes:,} classes, float32")
    for name, (seconds, peak, activations) in best.items():
        print(
            f"{name:<24} {seconds:7.3f} s   process {peak / GIB:5.2f} GiB   "
            f"activations {activations / MIB:7.1f} MiB"
        )
    for name in OURS[1:]:
        for peer in PEERS:
            time_ratio = best[name][0] / best[peer][0]
            memory_ratio = best[name][2] / best[peer][2]
            print(
                f"{name} / {peer}: {time_ratio:.2f} of the time, "
                f"{memory_ratio:.2f} of the activations"
            )


if __name__ == "__main__":
    main()
