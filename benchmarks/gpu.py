"""One GPU: heads, training, extraction and the input pipeline beside their alternatives.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --classes 81313 --model resnet50 --photos PHOTOS --parts heads

Prints one table: ours, the alternative, the ratio of their times (below 1: ours is faster), peak
GPU memory of each. Heads: forward and backward of ArcFace in float32, gradients dropped before each
step; the alternatives are pytorch-metric-learning, a compiled cross entropy that walks over the
classes in chunks and recomputes them backward, and bare normalise + linear + cross entropy.
Training and extraction: photo files to gradients and to descriptors, beside the same forward
(and backward) passes over batches that are on the GPU already. Pipeline: what the loaders deliver
with no network at all. Every size has been seen before the clock starts: kernels and workers are
warm.
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
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from landmark.data import Folder, LandmarkData, Toy
from landmark.data.batches import grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.extract.describe import describe
from landmark.extract.multiscale import MultiScale
from landmark.head import Full, Fused, Sampled
from landmark.image import ImageFormat
from landmark.loss import ArcFace
from landmark.loss.build import build_loss
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.sampler import Aspect
from landmark.task import RetrievalTask
from landmark.task.schedule import cosine

S2 = [[512, 352], [512, 384], [448, 448], [384, 512], [352, 512]]
L2 = [[800, 544], [800, 608], [800, 800], [608, 800], [544, 800]]
DEVICE = torch.device("cuda")


def row(work: str, ours: float, other: float | None, unit: str, memory: tuple = (), against=""):
    """One line of the table; for photos a second the ratio is of the times all the same."""
    ratio = ""
    if other is not None:
        ratio = f"{other / ours if unit == 'photos/s' else ours / other:.2f} x"
    peaks = " / ".join(f"{peak / 2**30:.2f} GiB" for peak in memory)
    shown = "" if other is None else f"{other:10.2f}"
    print(
        f"{work:<46}{ours:10.2f}{shown:>11} {unit:<9}{ratio:>8}  {peaks:<22}{against}", flush=True
    )


def milliseconds(step: Callable[[], None], repeats: int) -> tuple[float, int]:
    """The median of some steps, and the peak of GPU memory beyond what was held before."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        step()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times), torch.cuda.max_memory_allocated() - held


class CompiledChunks(torch.nn.Module):
    """ArcFace over chunks of classes: each is compiled, and computed again in the backward pass."""

    def __init__(self, dim: int, classes: int, chunk: int = 16_384) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(classes, dim))
        torch.nn.init.xavier_uniform_(self.weight)
        self.chunk = chunk
        self.log_sum = torch.compile(self._log_sum, dynamic=False)

    @staticmethod
    def _log_sum(unit, weight, target, columns):
        cosines = unit @ functional.normalize(weight).T
        here = (columns >= 0) & (columns < len(weight))
        place = columns.clamp(0, len(weight) - 1)[:, None]
        own = torch.where(here[:, None], target[:, None], cosines.gather(1, place))
        return torch.logsumexp(30 * cosines.scatter(1, place, own), 1)

    def forward(self, embeddings, labels):
        """The mean loss."""
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


def peer(dim: int, classes: int) -> torch.nn.Module:
    from pytorch_metric_learning.losses import ArcFaceLoss

    return ArcFaceLoss(classes, dim, margin=17.19, scale=30)


class Plain(torch.nn.Module):
    """Normalise, linear, cross entropy: no margin."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(classes, dim))
        torch.nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings, labels):
        """The mean loss."""
        cosines = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )
        return functional.cross_entropy(30 * cosines, labels)


def heads(classes: int, batch: int, dim: int, repeats: int) -> None:
    """Each head beside each alternative."""
    ways: dict[str, Callable[[], torch.nn.Module]] = {
        "pytorch-metric-learning": lambda: peer(dim, classes),
        "compiled chunks": lambda: CompiledChunks(dim, classes),
        "normalise + linear": lambda: Plain(dim, classes),
    }
    counts = np.ones(classes, int)
    for name, head in (("full", Full()), ("fused", Fused()), ("sampled 0.1", Sampled(0.1))):
        ways[name] = partial(build_loss, ArcFace, dim, counts, head)
    found = {}
    for name, make in ways.items():
        torch.manual_seed(0)
        loss = make().to(DEVICE)
        embeddings = torch.randn(batch, dim, device=DEVICE, requires_grad=True)
        labels = torch.randint(classes, (batch,), device=DEVICE)

        def step(loss=loss, embeddings=embeddings, labels=labels):
            loss.zero_grad(set_to_none=True)
            embeddings.grad = None
            loss(embeddings, labels).backward()

        found[name] = milliseconds(step, repeats)
        del loss, embeddings, step
        torch.cuda.empty_cache()
    others = ("pytorch-metric-learning", "compiled chunks", "normalise + linear")
    for name in ("full", "fused", "sampled 0.1"):
        for other in others:
            time_, memory = zip(found[name], found[other], strict=True)
            row(f"head={name}, {classes:,} classes", *time_, "ms", memory, other)


def batches_of(source, sizes, batch_size: int, workers: int) -> LandmarkData:
    image = ImageFormat(sizes=sizes, augmentation="soft", interpolation="bilinear")
    data = LandmarkData(source, image, Aspect, batch_size=batch_size, workers=workers, seed=0)
    data.setup("fit")
    return data


class EpochClock(pl.Callback):
    """Photos per second of the last epoch from its second batch on: everything is warm."""

    rate = 0.0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        """Start at the first batch, then count."""
        if batch_idx == 0:
            torch.cuda.synchronize()
            self.began, self.photos = time.perf_counter(), 0
        else:
            self.photos += len(batch[0])

    def on_train_epoch_end(self, trainer, task) -> None:
        """Stop."""
        torch.cuda.synchronize()
        self.rate = self.photos / (time.perf_counter() - self.began)


def sgd(groups):
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-5)


def training(source, model: str, batch_size: int, workers: int) -> None:
    """Files to weights by Trainer, beside the same steps over batches on the GPU."""
    data = batches_of(source, S2, batch_size, workers)
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
        began = time.perf_counter()
        for images, labels in batches:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                value = loss(embedder(images), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        torch.cuda.synchronize()
        rates.append(len(batches) * batch_size / (time.perf_counter() - began))
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
    work = f"train {model}, S2, bf16, {batch_size} a batch, {workers} workers"
    row(work, clock.rate, statistics.median(rates), "photos/s", peaks, "bare steps")


def extraction(source, model: str, batch_size: int, workers: int, photos: int) -> None:
    """Files to descriptors at three scales, beside the bare forward passes."""
    embedder = build_embedder(model, pooling=GeM()).to(DEVICE).eval()
    table = source.read(None).with_sizes()
    table = type(table)(table.root, table.rows.iloc[:photos].reset_index(drop=True))
    image_format, method = ImageFormat(L2, interpolation="bilinear"), MultiScale()
    dataset = ScaledPhotoDataset(table, image_format, method.scales)
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
            began = time.perf_counter()
            enabled = dtype is not None
            with torch.inference_mode(), torch.autocast("cuda", dtype=dtype, enabled=enabled):
                for scaled in tensors:
                    for images in scaled:
                        embedder(images)
            torch.cuda.synchronize()
            rates.append(count / (time.perf_counter() - began))
        bare_peak = torch.cuda.max_memory_allocated()
        del tensors
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began, done = time.perf_counter(), 0
        options = {"workers": workers, "device": DEVICE, "precision": precision}
        shapes = {dataset.groups[group[0]]: group for group in groups}  # one batch of each size
        for _ in describe(embedder, dataset, list(shapes.values()), method, **options):
            pass
        for rows, _ in describe(embedder, dataset, groups, method, **options):
            if not done:
                began = time.perf_counter()  # the workers have started
            done += len(rows)
        rate = (done - len(groups[0])) / (time.perf_counter() - began)
        peaks = (torch.cuda.max_memory_allocated(), bare_peak)
        work = f"extract {model}, L2, three scales, {precision}, {workers} workers"
        row(work, rate, statistics.median(rates), "photos/s", peaks, "bare forward passes")


def pipeline(source, batch_size: int, workers: int, photos: int) -> None:
    """What decoding, resizing and augmenting deliver, with no network to feed."""
    data = batches_of(source, S2, batch_size, workers)
    loader, rate = data.train_dataloader(), 0.0
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        began, done = time.perf_counter(), 0
        for images, _, _ in loader:
            done += len(images)
        rate = max(rate, done / (time.perf_counter() - began))
    row(f"train photos to S2 batches, {workers} workers", rate, None, "photos/s")
    table = source.read(None).with_sizes()
    table = type(table)(table.root, table.rows.iloc[:photos].reset_index(drop=True))
    dataset = ScaledPhotoDataset(table, ImageFormat(L2), MultiScale().scales)
    groups = grouped_batches(dataset.groups, batch_size)
    began, done = time.perf_counter(), 0
    for _, rows in DataLoader(dataset, batch_sampler=groups, num_workers=workers):
        if not done:
            began = time.perf_counter()
        done += len(rows)
    rate = (done - len(groups[0])) / (time.perf_counter() - began)
    row(f"photos to L2 at three scales, {workers} workers", rate, None, "photos/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[81_313, 203_094])
    parser.add_argument("--batch", type=int, default=128, help="photos of a head's step")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--model", default="resnet101")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--photos", type=Path, help="folder of landmarks; default: drawn ones")
    parser.add_argument("--count", type=int, default=1536, help="photos extracted")
    parser.add_argument(
        "--parts", nargs="+", default=["heads", "pipeline", "training", "extraction"]
    )
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no CUDA GPU")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'work':<46}{'ours':>10}{'other':>11} {'':<9}{'ratio':>8}  {'peak memory':<22}other")
    if "heads" in given.parts:
        for classes in given.classes:
            heads(classes, given.batch, given.dim, given.repeats)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Toy(folder, landmarks=64, photos=40, scale=2.5)
        source = Folder(given.photos) if given.photos else drawn
        if "pipeline" in given.parts:
            for workers in given.workers:
                pipeline(source, given.batch_size, workers, given.count)
        if "training" in given.parts:
            training(source, given.model, given.batch_size, given.workers[-1])
        if "extraction" in given.parts:
            extraction(source, given.model, given.batch_size, given.workers[-1], given.count)


if __name__ == "__main__":
    main()
