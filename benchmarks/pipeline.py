"""One epoch of training photos, decoded, resized, augmented, in batches: ours and the seed's way.

    pip install opencv-python-headless
    python benchmarks/pipeline.py
    python benchmarks/pipeline.py PHOTOS --workers 2 --rounds 3

The released code of the first place in 2019 decodes with cv2 at full size, resizes, brightens,
cuts and resizes again, and hands over normalised float32. Ours hands over bytes, which the device
normalises: measured with and without doing that on the CPU, by one thread, as the workers have the
cores. Both bring the same photos in S2 batches of 32 with the soft augmentation, through PyTorch's
DataLoader with as many workers; they take turns, and the least time of the rounds counts.
"""

import argparse
import os
import time

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the scripts do

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from landmark.data import Folder, LandmarkData, Toy
from landmark.image import ImageFormat
from landmark.sampler import Aspect

try:
    import cv2
except ImportError:
    cv2 = None

S2 = [[512, 352], [512, 384], [448, 448], [384, 512], [352, 512]]
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class SeedsWay(Dataset):
    """Paths and sizes to float32 (3, h, w), by the operations of the released code in their order.

    Its affine step with angles of 0 is left out, in the released code's favour.
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
        more_width, more_height = max(view_width - width, 0), max(view_height - height, 0)
        if more_width or more_height:
            left, top = (int(random.integers(more + 1)) for more in (more_width, more_height))
            image = cv2.copyMakeBorder(
                image, top, more_height - top, left, more_width - left, cv2.BORDER_CONSTANT, value=0
            )
        left, top = (
            int(max(side - view, 0) * random.uniform())
            for side, view in ((width, view_width), (height, view_height))
        )
        image = image[top : top + view_height, left : left + view_width]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image.astype(np.float32)
        image -= MEAN * 255
        image *= 1 / (DEVIATION * 255)
        return torch.from_numpy(image.transpose(2, 0, 1)).float()


def seconds(loader, finish) -> tuple[float, int]:
    began, photos = time.perf_counter(), 0
    for batch in loader:
        photos += len(finish(batch))
    return time.perf_counter() - began, photos


def normalised(batch) -> torch.Tensor:
    """What the embedder does with the bytes that our loader hands over."""
    images = batch[0].float()
    return images.sub_(255 * torch.tensor(MEAN)[:, None, None]).div_(
        255 * torch.tensor(DEVIATION)[:, None, None]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", help="folder of landmarks; none: the toy world")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if cv2 is None:
        print("not measured: the seed's way needs cv2, pip install opencv-python-headless")
        return
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    image = ImageFormat(sizes=S2, augmentation="soft", interpolation="bilinear")
    source = Folder(given.photos) if given.photos else Toy()
    data = LandmarkData(source, image, Aspect, batch_size=32, workers=given.workers, seed=0)
    data.setup("fit")
    ours = data.train_dataloader()
    table, groups = data.train_table, ours.dataset.groups
    paths = [str(table.root / path) for path in table.rows["path"]]
    sizes = [image.size(int(group)) for group in groups]
    batches = [[row for _, row in batch] for batch in ours.batch_sampler]
    theirs = DataLoader(SeedsWay(paths, sizes), batch_sampler=batches, num_workers=given.workers)
    ways = {
        "seed": (theirs, lambda batch: batch),
        "ours, normalised on the CPU": (ours, normalised),
        "ours, as handed to the device": (ours, lambda batch: batch[0]),
    }
    found = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, (loader, finish) in ways.items():
            found[name].append(seconds(loader, finish))
    rates = {name: max(photos / took for took, photos in runs) for name, runs in found.items()}
    for name, rate in rates.items():
        print(f"{name:32}{rate:7.1f} photos/s   {rate / rates['seed']:.2f} x")


if __name__ == "__main__":
    main()
