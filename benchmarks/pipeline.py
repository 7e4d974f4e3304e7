"""One epoch of training photos, decoded, resized, augmented, in batches: ours and the seed's way.

    pip install opencv-python-headless
    python benchmarks/pipeline.py
    python benchmarks/pipeline.py PHOTOS --workers 2 --rounds 3

The released code of the first place in 2019 decodes with cv2 at full size, resizes, cuts and
brightens, and hands over normalised float32. Both bring the same photos in S2 batches of 32 with
the soft augmentation, through PyTorch's DataLoader with as many workers; the least of the rounds
counts.
"""

import argparse
import time

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
    """Paths and sizes to float32 (3, h, w)."""

    def __init__(self, paths, sizes) -> None:
        self.paths, self.sizes = paths, sizes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int):
        width, height = self.sizes[row]
        image = cv2.cvtColor(cv2.imread(self.paths[row]), cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        random = np.random.default_rng(row)
        scale = random.uniform(0.8, 1.2, 2)
        left, top = (1 - scale) * random.uniform(size=2)
        matrix = np.array(
            [
                [1 / scale[0], 0, -left * width / scale[0]],
                [0, 1 / scale[1], -top * height / scale[1]],
            ]
        )
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        if random.uniform() < 0.5:
            image = np.clip(image * random.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
        image = (image.astype(np.float32) / 255 - MEAN) / DEVIATION
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def seconds(loader, finish) -> tuple[float, int]:
    began, photos = time.perf_counter(), 0
    for batch in loader:
        photos += len(finish(batch))
    return time.perf_counter() - began, photos


def normalised(batch) -> torch.Tensor:
    """What the embedder does with the bytes that our loader hands over."""
    images = batch[0].float().div_(255)
    return images.sub_(torch.tensor(MEAN)[:, None, None]).div_(
        torch.tensor(DEVIATION)[:, None, None]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", help="folder of landmarks; none: the toy world")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if cv2 is None:
        print("not measured: the seed's way needs cv2, pip install opencv-python-headless")
        return
    cv2.setNumThreads(0)
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
    found = {"seed": [], "ours": []}
    for _ in range(given.rounds):
        found["seed"].append(seconds(theirs, lambda batch: batch))
        found["ours"].append(seconds(ours, normalised))
    rates = {name: max(photos / took for took, photos in runs) for name, runs in found.items()}
    for name, rate in rates.items():
        print(f"{name}   {rate:7.1f} photos/s of {found[name][0][1]}")
    print(f"ours is {rates['ours'] / rates['seed']:.2f} x as fast")


if __name__ == "__main__":
    main()
