"""Load one epoch of training photos (decode, resize, augment, batch): ours and the released code.

    pip install opencv-python-headless
    python benchmarks/pipeline.py
    python benchmarks/pipeline.py PHOTOS --workers 2 --rounds 3

The released code of the first place in 2019 decodes with cv2 at full size, resizes, brightens,
crops and resizes again, and returns normalised float32. Ours returns bytes, which the device
normalises: measured without that step, and with it on the CPU, on one thread because the workers
use the cores. Both load the same photos in S2 batches of 32 with the soft augmentation, through
PyTorch's DataLoader with the same number of workers. They run in turns; the fastest round counts.
"""

import argparse
import os
import time

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the scripts do

import numpy as np
import torch
from _recipe import training_data
from torch.utils.data import DataLoader, Dataset

from landmark.data import Folder, Toy

try:
    import cv2
except ImportError:
    cv2 = None

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class ReleasedDataset(Dataset):
    """Paths and sizes to float32 (3, h, w), by the operations of the released code in their order.

    Its affine step with angles of 0 is left out, which makes the released code faster.
    """

    def __init__(self, paths, sizes) -> None:
        self.paths, self.sizes = paths, sizes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int):
        width, height = self.sizes[row]
        random = np.random.default_rng(row)
        image = cv2.resize(cv2.imread(self.paths[row])[..., ::-1], (width, height))
        if random.uniform() < 0.5:
            table = np.clip(np.arange(256) * random.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
            image = cv2.LUT(image, table)
        view_width, view_height = (int(side * random.uniform(0.8, 1.2)) for side in (width, height))
        pad_width, pad_height = max(view_width - width, 0), max(view_height - height, 0)
        if pad_width or pad_height:
            left, top = (int(random.integers(pad + 1)) for pad in (pad_width, pad_height))
            image = cv2.copyMakeBorder(
                image, top, pad_height - top, left, pad_width - left, cv2.BORDER_CONSTANT, value=0
            )
        left, top = (
            int(max(side - view, 0) * random.uniform())
            for side, view in ((width, view_width), (height, view_height))
        )
        image = image[top : top + view_height, left : left + view_width]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image.astype(np.float32)
        image -= MEAN * 255
        image *= 1 / (STD * 255)
        return torch.from_numpy(image.transpose(2, 0, 1)).float()


def photos_per_second(loader, finish) -> float:
    start, photos = time.perf_counter(), 0
    for batch in loader:
        photos += len(finish(batch))
    return photos / (time.perf_counter() - start)


def normalise(batch) -> torch.Tensor:
    """Normalise the bytes of our loader, as the embedder does."""
    images = batch[0].float()
    return images.sub_(255 * torch.tensor(MEAN)[:, None, None]).div_(
        255 * torch.tensor(STD)[:, None, None]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", help="folder of landmarks; default: the toy world")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if cv2 is None:
        print("not measured: cv2 is missing. Run pip install opencv-python-headless.")
        return
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    source = Folder(arguments.photos) if arguments.photos else Toy()
    data = training_data(source, 32, arguments.workers)
    ours = data.train_dataloader()
    table, groups = data.train_table, ours.dataset.groups
    paths = [str(table.root / path) for path in table.rows["path"]]
    sizes = [data.image_format.size(int(group)) for group in groups]
    batches = [[row for _, row in batch] for batch in ours.batch_sampler]
    released = DataLoader(
        ReleasedDataset(paths, sizes), batch_sampler=batches, num_workers=arguments.workers
    )
    pipelines = {
        "released": (released, lambda batch: batch),
        "ours, normalised on the CPU": (ours, normalise),
        "ours, bytes": (ours, lambda batch: batch[0]),
    }
    rates = dict.fromkeys(pipelines, 0.0)
    for _ in range(arguments.rounds):
        for name, (loader, finish) in pipelines.items():
            rates[name] = max(rates[name], photos_per_second(loader, finish))
    for name, rate in rates.items():
        print(f"{name:32}{rate:7.1f} photos/s   {rate / rates['released']:.2f} x")


if __name__ == "__main__":
    main()
