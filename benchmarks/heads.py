"""ArcFace, forward and backward, over many classes: our heads and pytorch-metric-learning's.

    python benchmarks/heads.py
    python benchmarks/heads.py --classes 203094 --rounds 5
    python benchmarks/heads.py --limit

The second alternative is normalise, linear, cross entropy. Each head runs in a new process in each
round, in turns. Prints the fastest step (forward and backward; gradients are dropped before it) and
its ratio to both alternatives, the peak resident memory of the process, and the memory of the
activations: the peak of a step over the memory before it, less the dense gradient of the centres.

With --limit it compares the fused head with its own products: cosines, cosines recomputed,
gradient of the embeddings, gradient of the centres, each block by block into memory that exists, at
the block size at which all four are fastest. Everything runs in turns in one new process, in
float32 and, where the hardware has it, in bfloat16, with the errors of loss and gradients relative
to float64.
"""

import argparse
import copy
import math
import os
import resource
import time
from collections import defaultdict
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


def products(
    embeddings: torch.Tensor, centres: torch.Tensor, gradient: torch.Tensor, block: int
) -> None:
    """Compute the four products of a step, whose results mean nothing; fills `gradient` (C, D)."""
    unit_grad = torch.zeros_like(embeddings)
    cosines = [embeddings.new_empty(len(embeddings), len(part)) for part in centres.split(block)]
    cosines[1:-1] = cosines[:1] * len(cosines[1:-1])
    blocks = list(zip(cosines, centres.split(block), gradient.split(block), strict=True))
    for out, part, _ in blocks:
        torch.mm(embeddings, part.T, out=out)
    for out, part, part_grad in blocks:
        torch.mm(embeddings, part.T, out=out)
        unit_grad.addmm_(out, part)
        torch.mm(out.T, embeddings, out=part_grad)


def fused_step(
    loss: torch.nn.Module, embeddings: torch.Tensor, labels: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the seconds of a step, its loss and the gradients of embeddings and centres."""
    embeddings = embeddings.clone().requires_grad_()
    loss.zero_grad()
    start = time.perf_counter()
    value = loss(embeddings, labels)
    value.backward()
    seconds = time.perf_counter() - start
    return seconds, value.detach(), embeddings.grad, next(loss.parameters()).grad


def relative_errors(loss: torch.nn.Module, embeddings: torch.Tensor, labels: torch.Tensor):
    """Return the errors of loss and both gradients relative to float64, as Frobenius norms."""
    from landmark.head import Fused

    results = [fused_step(loss, embeddings, labels)[1:]]
    exact = copy.deepcopy(loss).double()
    Fused().attach(exact)
    results.append(fused_step(exact, embeddings.double(), labels)[1:])
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]


def head_limit(classes=81_313, batch=64, dim=512, repeats=5, blocks=(4096, 8192)):
    """Return a row for each precision, and the seconds of both alternatives.

    Returns:
        Rows (precision, seconds of a step, seconds of its products, block of these, errors of loss,
        embeddings' and centres' gradient) and {alternative: seconds}.
    """
    from landmark.device import has_bf16_products
    from landmark.head import Fused
    from landmark.head.products import rounded_products

    torch.manual_seed(0)
    embeddings, labels = torch.randn(batch, dim), torch.randint(classes, (batch,))
    unit, gradient = torch.nn.functional.normalize(embeddings), torch.zeros(classes, dim)
    losses = {name: build(name, classes, dim, 1.0)[0] for name in ("fused", *PEERS)}
    centres = losses["fused"].weight.detach()
    precisions = ["float32"] + ["bf16"] * has_bf16_products()
    best: dict[tuple, float] = defaultdict(lambda: math.inf)
    for _ in range(repeats):
        for precision in precisions:
            Fused(precision=precision).attach(losses["fused"])
            seconds = fused_step(losses["fused"], embeddings, labels)[0]
            best[precision, "step"] = min(best[precision, "step"], seconds)
            for block in blocks:
                with rounded_products(precision, centres.device):
                    start = time.perf_counter()
                    products(unit, centres, gradient, block)
                    seconds = time.perf_counter() - start
                best[precision, block] = min(best[precision, block], seconds)
        for name in PEERS:
            seconds = fused_step(losses[name], embeddings, labels)[0]
            losses[name].zero_grad()
            best[name, "step"] = min(best[name, "step"], seconds)
    rows = []
    for precision in precisions:
        Fused(precision=precision).attach(losses["fused"])
        errors = relative_errors(losses["fused"], embeddings, labels)
        block = min(blocks, key=lambda block, name=precision: best[name, block])
        rows.append((precision, best[precision, "step"], best[precision, block], block, *errors))
    return rows, {name: best[name, "step"] for name in PEERS}


def print_limit(options: argparse.Namespace) -> None:
    # Threads that wait in a loop are about ten times slower where other processes use the CPUs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sizes = (options.classes, options.batch, options.dim, options.repeats)
    rows, peers = run_in_new_process(head_limit, *sizes)
    print(f"batch {options.batch}, {options.dim}-d, {options.classes:,} classes")
    for precision, step, bare, block, *errors in rows:
        print(
            f"fused {precision:<8} {step:7.3f} s   its products {bare:7.3f} s (block {block:,})   "
            f"ratio {step / bare:4.2f}   relative error of loss {errors[0]:.1e}, gradients of "
            f"embeddings {errors[1]:.1e}, centres {errors[2]:.1e}"
        )
    if len(rows) == 1:
        print("fused bf16: this CPU does not multiply bfloat16 in hardware")
    for name, seconds in peers.items():
        ratios = ", ".join(f"fused {row[0]} {row[1] / seconds:.2f} of it" for row in rows)
        print(f"{name:<24} {seconds:7.3f} s   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ratio", type=float, default=0.1, help="ratio of the sampled head")
    parser.add_argument("--repeats", type=int, default=5, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", action="store_true", help="compare fused with its products")
    options = parser.parse_args()
    if options.limit:
        print_limit(options)
        return
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
