"""Synthetic descriptors of landmarks.

Photos are scattered around their landmark, and landmarks around one of 64 scenes. A few landmarks
have many photos; most have few.
"""

import numpy as np

_SCENES = 64
_BLOCK_ROWS = 65536


def landmark_descriptors(photos: int, landmarks: int, dim: int, seed: int = 0):
    """Return unit descriptors (photos, dim) float32 and the landmark of each photo (photos,)."""
    random = np.random.default_rng(seed)
    scenes, centres = (unit_vectors(random, count, dim) for count in (_SCENES, landmarks))
    scene_of_landmark = random.integers(0, _SCENES, landmarks)
    labels = random.choice(landmarks, photos, p=landmark_shares(landmarks))
    vectors = np.empty((photos, dim), np.float32)
    for first in range(0, photos, _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        label = labels[block]
        noise = unit_vectors(random, len(label), dim)
        vectors[block] = 0.5 * scenes[scene_of_landmark[label]] + 0.6 * centres[label] + 0.6 * noise
        vectors[block] /= np.linalg.norm(vectors[block], axis=1, keepdims=True)
    return vectors, labels


def landmark_shares(landmarks: int) -> np.ndarray:
    """Return each landmark's share of the photos, long-tailed, (landmarks,)."""
    weights = 1 / (10 + np.arange(landmarks)) ** 0.7
    return weights / weights.sum()


def unit_vectors(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Return random unit vectors (count, dim) float32."""
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
