"""Tell pairs of photos of one landmark from other pairs: ours, and the 2019 way.

Claim: with 1000 RootSIFT features a photo and one thread, `Verifier()` takes at most 5 ms a pair
and has an AUC of at least 0.79; it keeps at least 44 % of the pairs of one landmark at the
threshold that 1 % of the other pairs pass. The 2019 way (Yokoo et al., arXiv 2003.11211: nearest
neighbours within a radius of 0.8 by a KD-tree, affine RANSAC of 20 pixels and 1000 trials by
scikit-image, the number of inliers) takes a hundred times as long; it runs where scikit-image is
installed, on the first `--earlier` pairs of either kind.

The driver `verify_pairs` is timed on random pairs of the same photos, by one and two processes,
with the start of the processes.

`--local xfeat` and `--local aliked` evaluate these features instead (extra landmark[local]): XFeat
by its authors' matches, and LightGlue, which takes a hundred times as long, on the first
`--earlier` pairs of either kind.

PAIRS is a JSON list of [path, path, 1 or 0], the paths below PHOTOS.

OPENBLAS_NUM_THREADS=1 python benchmarks/verification.py --pairs PAIRS.json --photos PHOTOS
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image, ImageOps
from scipy.spatial import KDTree
from scipy.stats import rankdata

from landmark.local import ALIKED, XFeat
from landmark.verify import LightGlueVerifier, Verifier, random_pairs, verify_pairs
from landmark.verify.matching import unit_rows


def root_sift(path: Path, side: int, count: int) -> SimpleNamespace:
    """Describe a photo, its longer side reduced to `side` pixels."""
    with Image.open(path) as image:
        photo = np.array(ImageOps.exif_transpose(image).convert("L"))
    scale = side / max(photo.shape)
    if scale < 1:
        size = [max(1, round(length * scale)) for length in photo.shape[::-1]]
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(count).detectAndCompute(photo, None)
    points = points[:count]
    descriptors = np.zeros((0, 128)) if descriptors is None else descriptors[:count]
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))
    return SimpleNamespace(
        keypoints=np.array([point.pt for point in points], np.float32).reshape(-1, 2),
        descriptors=np.clip(np.round(512 * root), 0, 255).astype(np.uint8),
        size=photo.shape[::-1],
        scales=np.array([point.size for point in points], np.float32),
        angles=np.array([point.angle for point in points], np.float32),
        background=None,
    )


def earlier_way(a: SimpleNamespace, b: SimpleNamespace) -> float:
    """Return the inliers that the 2019 solution counts."""
    from skimage.measure import ransac
    from skimage.transform import AffineTransform

    of_a, of_b = unit_rows(a.descriptors), unit_rows(b.descriptors)
    if not len(of_a) or not len(of_b):
        return 0.0
    distances, rows = KDTree(of_b).query(of_a, distance_upper_bound=0.8)
    matched = np.isfinite(distances)
    if matched.sum() <= 3:
        return 0.0
    points = a.keypoints[matched], b.keypoints[rows[matched]]
    _, inliers = ransac(
        points, AffineTransform, min_samples=3, residual_threshold=20, max_trials=1000, rng=0
    )
    return 0.0 if inliers is None else float(inliers.sum())


def evaluate(name, score, pairs, features):
    """Print AUC, share kept at 1 % of the other pairs, and milliseconds a pair."""
    is_same = np.array([same for *_, same in pairs], bool)
    score(*(features[path] for path in pairs[0][:2]))  # imports
    start = time.perf_counter()
    scores = np.array([score(features[a], features[b]) for a, b, _ in pairs])
    milliseconds = (time.perf_counter() - start) / len(pairs) * 1000
    same, others = is_same.sum(), (~is_same).sum()
    auc = (rankdata(scores)[is_same].sum() - same * (same + 1) / 2) / (same * others)
    threshold = np.quantile(scores[~is_same], 0.99)
    kept = (scores[is_same] > threshold).mean()
    print(
        f"{name:<42} AUC {auc:.3f}   kept {kept:.2f}   threshold {threshold:6.1f}   "
        f"{milliseconds:7.1f} ms a pair   {len(pairs)} pairs",
        flush=True,
    )


def time_driver(photos, count):
    """Print the pairs a second of the driver with one and two processes."""
    pairs = random_pairs(len(photos), pairs=count)
    expected = None
    for processes in (1, 2):
        start = time.perf_counter()
        found = verify_pairs(
            Verifier(), photos, photos, pairs, processes=processes, block=128, progress=False
        )
        seconds = time.perf_counter() - start
        expected = found if expected is None else expected
        same = "equal" if (found.scores == expected.scores).all() else "DIFFERENT"
        print(
            f"verify_pairs, processes={processes}: {count / seconds:.0f} pairs/s, {seconds:.1f} s "
            f"for {count:,} pairs, results {same}",
            flush=True,
        )


def evaluate_network(arguments, pairs, some):
    """Describe the photos by a network of landmark[local], and verify the pairs."""
    import torch

    torch.set_num_threads(1)
    kind = {"xfeat": XFeat, "aliked": ALIKED}[arguments.local]
    feature = kind(arguments.features, max_side=arguments.side)
    features, start = {}, time.perf_counter()
    used = some if arguments.local == "aliked" else pairs
    for path in sorted({path for pair in used for path in pair[:2]}):
        with Image.open(arguments.photos / path) as image:
            features[path] = feature(np.array(ImageOps.exif_transpose(image).convert("RGB")))
    milliseconds = (time.perf_counter() - start) / len(features) * 1000
    count = np.mean([len(one) for one in features.values()])
    print(f"{kind.__name__}: {milliseconds:.0f} ms a photo with decoding, {count:.0f} features")
    if arguments.local == "xfeat":
        xfeat = Verifier("fundamental", ratio=None, radius=0.6)
        evaluate("cosine of 0.82, fundamental", lambda a, b: xfeat(a, b).score, used, features)
    lightglue = LightGlueVerifier(arguments.local, device="cpu")
    evaluate("LightGlue, fundamental", lambda a, b: lightglue(a, b).score, some, features)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--side", type=int, default=512, help="longer side in pixels")
    parser.add_argument("--features", type=int, default=1000, help="features a photo")
    parser.add_argument("--driver", type=int, default=4000, help="pairs of the driver; 0 for none")
    parser.add_argument("--local", choices=("rootsift", "xfeat", "aliked"), default="rootsift")
    parser.add_argument("--earlier", type=int, default=15, help="pairs of either kind, slow ways")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    pairs = json.loads(arguments.pairs.read_text())
    some = [
        pair for same in (1, 0) for pair in [p for p in pairs if p[2] == same][: arguments.earlier]
    ]
    if arguments.local != "rootsift":
        evaluate_network(arguments, pairs, some)
        return
    paths = sorted({path for pair in pairs for path in pair[:2]})
    features = {
        path: root_sift(arguments.photos / path, arguments.side, arguments.features)
        for path in paths
    }
    for name, verifier in {
        "Verifier()": Verifier(),
        "Verifier(ignore_bars=False)": Verifier(ignore_bars=False),
        "Verifier(ignore_bottom=0.1)": Verifier(ignore_bottom=0.1, ignore_bars=False),
        "Verifier(distinct=False)": Verifier(distinct=False),
        "Verifier('affine', ratio=0.9)": Verifier("affine", ratio=0.9),
        "Verifier('homography', ratio=0.9)": Verifier("homography", ratio=0.9),
        "Verifier('fundamental', ratio=0.9)": Verifier("fundamental", ratio=0.9),
    }.items():
        evaluate(name, lambda a, b, verifier=verifier: verifier(a, b).score, pairs, features)

    if arguments.driver:
        time_driver(list(features.values()), arguments.driver)
    evaluate("Verifier()", lambda a, b: Verifier()(a, b).score, some, features)
    try:
        evaluate("2019 way", earlier_way, some, features)
    except ImportError:
        print("2019 way: scikit-image is not installed")


if __name__ == "__main__":
    main()
