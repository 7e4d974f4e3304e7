"""Photos with local features and verifiers for test_verify_pairs.py, importable by its workers."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from landmark.verify import Verification


def photos(count, seed=0, features=12):
    """Photos whose features agree in part."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 400, (features, 2)).astype(np.float32)
    descriptors = rng.integers(0, 256, (features, 128)).astype(np.uint8)
    found = []
    for _ in range(count):
        moved = points + rng.normal(0, 1, 2) * 20
        moved[rng.random(features) < 0.4] += rng.uniform(30, 200)
        found.append(
            SimpleNamespace(
                keypoints=moved.astype(np.float32),
                descriptors=np.where(
                    rng.random((features, 1)) < 0.8, descriptors, 255 - descriptors
                ),
                scores=np.ones(features, np.float32),
                size=(640, 480),
                scales=rng.uniform(5, 6, features).astype(np.float32),
                angles=rng.uniform(0, 9, features).astype(np.float32),
                background=None,
            )
        )
    return found


def verification(score, inliers):
    return Verification(score, inliers, np.empty((0, 2), np.int64), np.empty(0, bool), None)


class Counting:
    """Score a pair by its rows, write each call to a file, and stop this process at a call."""

    def __init__(self, calls, stop_after=None, symmetric=False):
        self._calls, self._stop_after, self.symmetric = Path(calls), stop_after, symmetric
        self._count = 0

    def __call__(self, a, b):
        with self._calls.open("a") as file:
            file.write(f"{a.row} {b.row}\n")
        self._count += 1
        if self._count == self._stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return verification(a.row + b.row / 1000, 7 * a.row + b.row)

    def calls(self):
        lines = self._calls.read_text().split("\n")[:-1] if self._calls.exists() else []
        return [tuple(map(int, line.split())) for line in lines]


def rows(count):
    return [SimpleNamespace(row=row) for row in range(count)]
