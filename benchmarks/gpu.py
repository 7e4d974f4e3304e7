"""Heads, training, extraction and the input pipeline on one GPU, and their alternatives.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --classes 81313 --model resnet50 --photos PHOTOS --parts heads

Prints one table: ours, the alternative, the ratio of their times (below 1: ours is faster) and the
peak GPU memory of each. All kernels and workers are warmed up with every image size first.

heads: forward and backward of ArcFace in float32; gradients are dropped before each step. The
alternatives are pytorch-metric-learning, a compiled cross entropy over chunks of classes that are
recomputed in the backward pass, and normalise + linear + cross entropy without a margin.
training, extraction: from photo files to gradients and to descriptors; the alternative is the same
forward (and backward) passes over batches that are already on the GPU.
pipeline: the photos per second of the data loaders, without a network.
pairs: pairs a second of chamfer, ELViS and AMES, 400 x 400 descriptors, from descriptors in memory;
the alternative is plain PyTorch on the GPU, pair by pair.
fit: an epoch of fit=linear on a memory-mapped store; the alternative is the same on the CPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from _descriptors import landmark_descriptors
from _recipe import first_photos, image_sizes, sgd, training_data
from pair_models import COUNT, DIM, PlainAMES, PlainELViS, photos, plain_chamfer
from peer_losses import PlainSoftmax, PytorchMetricLearning
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from landmark.artifact.descriptors import DescriptorStore
from landmark.data import Folder, Toy
from landmark.data.batches import grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.extract.describe import describe
from landmark.extract.multiscale import MultiScale
from landmark.fit.linear import fit_linear
from landmark.head import Full, Fused, Sampled
from landmark.image import ImageFormat
from landmark.loss import ArcFace
from landmark.loss.build import build_loss
from landmark.model.build import build_embedder
from landmark.pair import AMES, ELViS
from landmark.pair.scorer import AMESScorer, ChamferScorer, ELViSScorer
from landmark.pooling import GeM
from landmark.task import RetrievalTask
from landmark.task.schedule import cosine

DEVICE = torch.device("cuda")


def print_row(
    work: str, ours: float, other: float | None, unit: str, peaks: tuple = (), alternative: str = ""
) -> None:
    """Print one line of the table.

    The ratio is that of the times, also where `ours` and `other` are photos or pairs per second.
    """
    ratio = ""
    if other is not None:
        ratio = f"{other / ours if unit.endswith('/s') else ours / other:.2f} x"
    memory = " / ".join(f"{peak / 2**30:.2f} GiB" for peak in peaks)
    shown = "" if other is None else f"{other:10.2f}"
    print(
        f"{work:<46}{ours:10.2f}{shown:>11} {unit:<9}{ratio:>8}  {memory:<22}{alternative}",
        flush=True,
    )


def milliseconds(step: Callable[[], None], repeats: int) -> tuple[float, int]:
    """Return the median time of a step and its peak GPU memory over what was allocated before."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), torch.cuda.max_memory_allocated() - allocated


class CompiledChunks(torch.nn.Module):
    """ArcFace over chunks of classes, each compiled and recomputed in the backward pass."""

    def __init__(self, dim: int, classes: int, chunk: int = 16_384) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(classes, dim))
        torch.nn.init.xavier_uniform_(self.weight)
        self.chunk = chunk
        self.log_sum = torch.compile(self._log_sum, dynamic=False)

    @staticmethod
    def _log_sum(unit, weight, target, columns):
        cosines = unit @ functional.normalize(weight).T
        in_chunk = (columns >= 0) & (columns < len(weight))
        column = columns.clamp(0, len(weight) - 1)[:, None]
        target = torch.where(in_chunk[:, None], target[:, None], cosines.gather(1, column))
        return torch.logsumexp(30 * cosines.scatter(1, column, target), 1)

    def forward(self, embeddings, labels):
        """Return the mean loss."""
        unit = functional.normalize(embeddings)
        cosine = (unit * functional.normalize(self.weight[labels])).sum(1)
        target = torch.cos(torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) + 0.3)
        parts = []
        for first in range(0, len(self.weight), self.chunk):
            weight = self.weight[first : first + self.chunk]
            parts.append(
                checkpoint(self.log_sum, unit, weight, target, labels - first, use_reentrant=False)
            )
        return (torch.stack(parts).logsumexp(0) - 30 * target).mean()


def benchmark_heads(classes: int, batch: int, dim: int, repeats: int) -> None:
    """Compare each head with each alternative."""
    peers: dict[str, Callable[[], torch.nn.Module]] = {
        "pytorch-metric-learning": lambda: PytorchMetricLearning(dim, classes),
        "compiled chunks": lambda: CompiledChunks(dim, classes),
        "normalise + linear": lambda: PlainSoftmax(dim, classes),
    }
    counts = np.ones(classes, int)
    ours: dict[str, Callable[[], torch.nn.Module]] = {
        name: partial(build_loss, ArcFace, dim, counts, head)
        for name, head in (("full", Full()), ("fused", Fused()), ("sampled 0.1", Sampled(0.1)))
    }
    results = {}
    for name, make in (peers | ours).items():
        torch.manual_seed(0)
        loss = make().to(DEVICE)
        embeddings = torch.randn(batch, dim, device=DEVICE, requires_grad=True)
        labels = torch.randint(classes, (batch,), device=DEVICE)

        def step(loss=loss, embeddings=embeddings, labels=labels):
            loss.zero_grad(set_to_none=True)
            embeddings.grad = None
            loss(embeddings, labels).backward()

        results[name] = milliseconds(step, repeats)
        del loss, embeddings, step
        torch.cuda.empty_cache()
    for name in ours:
        for peer in peers:
            times, peaks = zip(results[name], results[peer], strict=True)
            print_row(f"head={name}, {classes:,} classes", *times, "ms", peaks, peer)


class EpochClock(pl.Callback):
    """Measure the photos per second of the last epoch, from its second batch on."""

    rate = 0.0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        """Start at the end of the first batch, then count photos."""
        if batch_idx == 0:
            torch.cuda.synchronize()
            self.start, self.photos = time.perf_counter(), 0
        else:
            self.photos += len(batch[0])

    def on_train_epoch_end(self, trainer, task) -> None:
        """Compute the rate."""
        torch.cuda.synchronize()
        self.rate = self.photos / (time.perf_counter() - self.start)


def benchmark_training(source, model: str, batch_size: int, workers: int) -> None:
    """Compare training by Trainer with the same steps over batches that are on the GPU."""
    data = training_data(source, batch_size, workers)
    embedder = build_embedder(model, pooling=GeM()).to(DEVICE)
    loss = ArcFace(embedder.embedding_dim, data.num_classes).to(DEVICE)
    batches = [
        (images.to(DEVICE), labels.to(DEVICE))
        for images, labels, _ in data.train_dataloader()
        if len(images) == batch_size
    ][:12]
    optimizer = sgd([*embedder.parameters(), *loss.parameters()])
    rates = []
    for _ in range(3):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for images, labels in batches:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                value = loss(embedder(images), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        torch.cuda.synchronize()
        rates.append(len(batches) * batch_size / (time.perf_counter() - start))
    bare_peak = torch.cuda.max_memory_allocated()
    del batches, images, labels, value, optimizer
    torch.cuda.empty_cache()
    clock = EpochClock()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu",
            devices=1,
            precision="bf16-mixed",
            max_epochs=2,
            default_root_dir=folder,
            logger=False,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(RetrievalTask(embedder, loss, sgd, cosine), datamodule=data)
    peaks = (torch.cuda.max_memory_allocated(), bare_peak)
    work = f"train {model}, S2, bf16, batch {batch_size}, {workers} workers"
    print_row(work, clock.rate, statistics.median(rates), "photos/s", peaks, "bare steps")


def benchmark_extraction(source, model: str, batch_size: int, workers: int, photos: int) -> None:
    """Compare extraction from files at three scales with the bare forward passes."""
    embedder = build_embedder(model, pooling=GeM()).to(DEVICE).eval()
    image_format, method = ImageFormat(image_sizes("l2"), interpolation="bilinear"), MultiScale()
    dataset = ScaledPhotoDataset(first_photos(source, photos), image_format, method.scales)
    groups = grouped_batches(dataset.groups, batch_size)
    for precision, dtype in (("32", None), ("16", torch.float16), ("bf16", torch.bfloat16)):
        sample = groups[:: max(1, len(groups) // 8)]  # the sizes in their proportions
        loader = DataLoader(dataset, batch_sampler=sample, num_workers=workers)
        tensors = [[images.to(DEVICE) for images in scaled] for scaled, _ in loader]
        count = sum(len(scaled[0]) for scaled in tensors)
        rates = []
        for _ in range(3):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            enabled = dtype is not None
            with torch.inference_mode(), torch.autocast("cuda", dtype=dtype, enabled=enabled):
                for scaled in tensors:
                    for images in scaled:
                        embedder(images)
            torch.cuda.synchronize()
            rates.append(count / (time.perf_counter() - start))
        bare_peak = torch.cuda.max_memory_allocated()
        del tensors
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start, done = time.perf_counter(), 0
        options = {"workers": workers, "device": DEVICE, "precision": precision}
        warm_up = {dataset.groups[group[0]]: group for group in groups}  # one batch of each size
        for _ in describe(embedder, dataset, list(warm_up.values()), method, **options):
            pass
        for rows, _ in describe(embedder, dataset, groups, method, **options):
            if not done:
                start = time.perf_counter()  # the workers have started
            done += len(rows)
        rate = (done - len(groups[0])) / (time.perf_counter() - start)
        peaks = (torch.cuda.max_memory_allocated(), bare_peak)
        work = f"extract {model}, L2, three scales, {precision}, {workers} workers"
        print_row(work, rate, statistics.median(rates), "photos/s", peaks, "bare forward passes")


def benchmark_pipeline(source, batch_size: int, workers: int, photos: int) -> None:
    """Measure decoding, resizing and augmenting without a network."""
    data = training_data(source, batch_size, workers)
    loader, rate = data.train_dataloader(), 0.0
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        start, done = time.perf_counter(), 0
        for images, _, _ in loader:
            done += len(images)
        rate = max(rate, done / (time.perf_counter() - start))
    print_row(f"train photos to S2 batches, {workers} workers", rate, None, "photos/s")
    table = first_photos(source, photos)
    dataset = ScaledPhotoDataset(table, ImageFormat(image_sizes("l2")), MultiScale().scales)
    groups = grouped_batches(dataset.groups, batch_size)
    start, done = time.perf_counter(), 0
    for _, rows in DataLoader(dataset, batch_sampler=groups, num_workers=workers):
        if not done:
            start = time.perf_counter()
        done += len(rows)
    rate = (done - len(groups[0])) / (time.perf_counter() - start)
    print_row(f"photos to L2 at three scales, {workers} workers", rate, None, "photos/s")


@torch.inference_mode()
def benchmark_pairs(pairs: int, repeats: int) -> None:
    """Compare the scorers of pairs with the same models in plain PyTorch, pair by pair."""
    torch.manual_seed(0)
    elvis, ames = ELViS(DIM).eval().to(DEVICE), AMES(DIM).eval().to(DEVICE)
    query, gallery = photos(1)[0].to(DEVICE), photos(pairs, 1).to(DEVICE)
    few = gallery[: max(2, pairs // 16)]
    for name, scorer, plain in (
        ("chamfer", ChamferScorer(), plain_chamfer),
        ("elvis", ELViSScorer(elvis), PlainELViS(elvis)),
        ("ames", AMESScorer(ames), PlainAMES(ames).eval()),
        ("ames, bf16", AMESScorer(ames, bf16=True), PlainAMES(ames).eval()),
    ):

        def ours(scorer=scorer):
            own = scorer.describe(query, False)
            scores = []
            for block in gallery.split(64):
                parts = [part.split(COUNT) for part in scorer.describe(block.flatten(0, 1), True)]
                scores.append(scorer.scores(own, list(zip(*parts, strict=True))))
            return torch.cat(scores)

        def plainly(plain=plain):
            with DEVICE:
                return torch.stack([plain(query, photo) for photo in few])

        difference = float((ours()[: len(few)] - plainly()).abs().max())
        (own, peak), (other, other_peak) = milliseconds(ours, repeats), milliseconds(plainly, 3)
        rates = pairs / own * 1000, len(few) / other * 1000
        work = f"{name}, {COUNT} x {COUNT} descriptors, {pairs} pairs"
        alternative = f"pair by pair; scores differ by {difference:.0e}"
        print_row(work, *rates, "pairs/s", (peak, other_peak), alternative)


def benchmark_fit(photos: int, dim: int) -> None:
    """Compare epochs of the linear adapter on the GPU and on the CPU."""
    vectors, labels = landmark_descriptors(photos, max(2, photos // 20), dim)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        DescriptorStore.write(path, np.arange(photos).astype(str), vectors, labels.astype(str))
        store, seconds = DescriptorStore.open(path), {}
        for device in ("cuda", "cpu"):
            times = []
            for epochs in (1, 3):
                torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                fit_linear(store, epochs=epochs, device=device)
                times.append(time.perf_counter() - start)
            seconds[device] = (times[1] - times[0]) / 2
            if device == "cuda":
                peak = torch.cuda.max_memory_allocated()
    work = f"an epoch of fit=linear, {photos:,} x {dim}"
    print_row(work, seconds["cuda"], seconds["cpu"], "s", (peak,), "CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[81_313, 203_094])
    parser.add_argument("--batch", type=int, default=128, help="photos per step of a head")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--model", default="resnet101")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--photos", type=Path, help="folder of landmarks; default: the toy world")
    parser.add_argument("--count", type=int, default=2048, help="photos extracted")
    parser.add_argument("--pairs", type=int, default=1024, help="pairs of photos scored")
    parser.add_argument("--fit-photos", type=int, default=200_000, help="descriptors of fit=linear")
    parts = ["heads", "pipeline", "training", "extraction", "pairs", "fit"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no CUDA GPU")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'work':<46}{'ours':>10}{'other':>11} {'':<9}{'ratio':>8}  {'peak memory':<22}other")
    if "heads" in arguments.parts:
        for classes in arguments.classes:
            benchmark_heads(classes, arguments.batch, arguments.dim, arguments.repeats)
    if "pairs" in arguments.parts:
        benchmark_pairs(arguments.pairs, max(3, arguments.repeats // 4))
    if "fit" in arguments.parts:
        benchmark_fit(arguments.fit_photos, arguments.dim)
    if not {"pipeline", "training", "extraction"} & set(arguments.parts):
        return
    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(folder, landmarks=64, photos=40, scale=2.5)
        source = Folder(arguments.photos) if arguments.photos else toy
        if "pipeline" in arguments.parts:
            for workers in arguments.workers:
                benchmark_pipeline(source, arguments.batch_size, workers, arguments.count)
        if "training" in arguments.parts:
            benchmark_training(source, arguments.model, arguments.batch_size, arguments.workers[-1])
        if "extraction" in arguments.parts:
            benchmark_extraction(
                source,
                arguments.model,
                arguments.batch_size,
                arguments.workers[-1],
                arguments.count,
            )


if __name__ == "__main__":
    main()
