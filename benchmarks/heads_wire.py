"""Bytes sent per training step: DDP all-reducing the head, and class-parallel centres.

    python benchmarks/heads_wire.py
    python benchmarks/heads_wire.py --classes 203094 --batch 32

Two gloo processes on this machine train ArcFace. The network is one vector of factors, so that
hardly anything but the head is communicated. Counts all bytes that the kernel sends over the
loopback interface (/proc/net/dev), headers included: run nothing else on the machine meanwhile.
Prints MiB and seconds per step, and the ratio.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _process import MIB, run_in_new_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from landmark.head import ClassParallel, Full
from landmark.loss import ArcFace
from landmark.task import heads

WORLD_SIZE = 2


def bytes_sent() -> int:
    """Return the bytes sent over the loopback interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.strip().partition(":")
        if name == "lo":
            return int(numbers.split()[8])
    raise RuntimeError("no loopback interface in /proc/net/dev")


class Network(nn.Module):
    """Multiply each photo's vector by learned factors and compute the loss."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(dim))
        self.loss = ArcFace(dim, classes)

    def forward(self, vectors, labels):
        """Return the mean loss."""
        return self.loss(vectors * self.factors, labels)


def train(
    rank: int, head: str, options: argparse.Namespace, rendezvous: str
) -> tuple[float, float]:
    """Train for some steps and return the bytes and the seconds per step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=WORLD_SIZE
    )
    torch.manual_seed(0)
    network = Network(options.dim, options.classes)
    {"DDP": Full(), "class-parallel": ClassParallel()}[head].attach(network.loss)
    heads.shard_weights(network)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)
    for step in range(options.steps + 1):
        if step == 1:  # DDP builds its buckets in step 0
            torch.distributed.barrier()
            sent_before, start = bytes_sent(), time.perf_counter()
        vectors = torch.randn(options.batch, options.dim)
        labels = torch.randint(options.classes, (options.batch,))
        optimizer.zero_grad()
        model(vectors, labels).backward()
        optimizer.step()
    torch.distributed.barrier()
    seconds, sent = time.perf_counter() - start, bytes_sent() - sent_before
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return sent / options.steps, seconds / options.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--batch", type=int, default=64, help="photos per rank")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    results = {}
    for head in ("DDP", "class-parallel"):
        with tempfile.TemporaryDirectory() as folder:
            rendezvous = f"file://{folder}/rendezvous"
            calls = [(rank, head, options, rendezvous) for rank in range(WORLD_SIZE)]
            results[head] = run_in_new_processes(train, calls)[0]
    print(f"2 processes, batch {options.batch} each, {options.dim}-d, {options.classes:,} classes")
    for head, (sent, seconds) in results.items():
        print(f"{head:<15} {sent / MIB:9.3f} MiB per step   {seconds:6.3f} s per step")
    ratio = results["class-parallel"][0] / results["DDP"][0]
    print(f"class-parallel / DDP: {ratio:.2%} of the bytes")


if __name__ == "__main__":
    main()
