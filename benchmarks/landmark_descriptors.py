"""Synthetic descriptors of landmarks for the benchmarks of re-ranking, and how those are measured.

Photos scatter around their landmark, landmarks around one of 64 kinds of scene; a few landmarks
have many photos and most have few.
"""

import time
from collections.abc import Callable

import numpy as np

from landmark.rerank.memory import PeakMemory

_SCENES = 64


def landmark_descriptors(photos: int, landmarks: int, dim: int, seed: int = 0):
    """Unit descriptors (photos, dim) float32 and the landmark of each (photos,)."""
    random = np.random.default_rng(seed)
    scenes, own = (unit_vectors(random, count, dim) for count in (_SCENES, landmarks))
    scene = random.integers(0, _SCENES, landmarks)
    share = 1 / (10 + np.arange(landmarks)) ** 0.7
    shown = random.choice(landmarks, photos, p=share / share.sum())
    vectors = np.empty((photos, dim), np.float32)
    for first in range(0, photos, 65536):
        part = slice(first, first + 65536)
        noise = unit_vectors(random, len(shown[part]), dim)
        vectors[part] = 0.5 * scenes[scene[shown[part]]] + 0.6 * own[shown[part]] + 0.6 * noise
        vectors[part] /= np.linalg.norm(vectors[part], axis=1, keepdims=True)
    return vectors, shown


def unit_vectors(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Random directions, (count, dim) float32."""
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measured(name: str, work: Callable, each: str = "", count: int = 0):
    """Do the work, print what it took, and return its result and the seconds.

    Args:
        name: Of the work.
        work: To be done.
        each: What is counted, say "photos".
        count: How many of them there are; 0: no rate is printed.
    """
    with PeakMemory() as memory:
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
    rate = f"   {count / seconds:10,.0f} {each}/s" if count else ""
    print(
        f"{name:<42} {seconds:9.2f} s   +{memory.bytes / 2**30:5.2f} GiB{rate}",
        flush=True,
    )
    return result, seconds
