"""Bytes over the wire a training step: DDP all-reducing the head, and class-parallel centres.

    python benchmarks/heads_wire.py
    python benchmarks/heads_wire.py --classes 203094 --batch 32

Two gloo processes on this machine train ArcFace over embeddings that one vector of factors makes:
beside the head next to nothing is there to travel. Counted is what the kernel sent over the
loopback interface (/proc/net/dev), headers and all, so leave the machine alone meanwhile. Printed
are MB and seconds a step, and the ratio.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path


def sent() -> int:
    """Bytes sent over the loopback interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.strip().partition(":")
        if name == "lo":
            return int(numbers.split()[8])
    raise RuntimeError("no loopback interface in /proc/net/dev")


def train(rank: int, way: str, options: argparse.Namespace, meeting: str, answers) -> None:
    """Trains so many steps; the first process puts bytes and seconds a step."""
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from landmark.head import ClassParallel, Full
    from landmark.loss import ArcFace
    from landmark.task import heads

    class Network(nn.Module):
        """Factors on the photos' vectors, and the loss."""

        def __init__(self) -> None:
            super().__init__()
            self.factors = nn.Parameter(torch.ones(options.dim))
            self.loss = ArcFace(options.dim, options.classes)

        def forward(self, vectors, labels):
            return self.loss(vectors * self.factors, labels)

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.manual_seed(0)
    network = Network()
    {"DDP": Full(), "class-parallel": ClassParallel()}[way].attach(network.loss)
    heads.shard_weights(network)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)
    for step in range(options.steps + 1):
        if step == 1:  # DDP builds its buckets in the first
            torch.distributed.barrier()
            before, start = sent(), time.perf_counter()
        vectors = torch.randn(options.batch, options.dim)
        labels = torch.randint(options.classes, (options.batch,))
        optimizer.zero_grad()
        model(vectors, labels).backward()
        optimizer.step()
    torch.distributed.barrier()
    if rank == 0:
        seconds = (time.perf_counter() - start) / options.steps
        answers.put(((sent() - before) / options.steps, seconds))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--batch", type=int, default=64, help="photos of each process")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for way in ("DDP", "class-parallel"):
        answers = context.SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{folder}/meeting"
            processes = [
                context.Process(target=train, args=(rank, way, options, meeting, answers))
                for rank in range(2)
            ]
            for process in processes:
                process.start()
            found[way] = answers.get()
            for process in processes:
                process.join()
    print(f"2 processes, batch {options.batch} each, {options.dim}-d, {options.classes:,} classes")
    for way, (size, seconds) in found.items():
        print(f"{way:<15} {size / 2**20:9.3f} MB a step   {seconds:6.3f} s a step")
    ratio = found["class-parallel"][0] / found["DDP"][0]
    print(f"class-parallel / DDP: {ratio:.2%} of the bytes")


if __name__ == "__main__":
    main()
