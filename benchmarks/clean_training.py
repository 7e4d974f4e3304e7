"""Clean a train set with a fifth of its labels wrong, and train on what is kept.

Claims, for each seed: with the default thresholds at least 80 % of the photos with a wrong label
are thrown out and at least 70 % of the others are kept; a linear layer trained on the kept photos
finds more photos of the queries' landmarks than one trained on all of them.

The labels are drawn at random, those of a fifth of the photos from the other landmarks. A linear
layer on the stores' descriptors is trained with ArcFace, for the same number of steps; mAP@100 is
that of an exact search among the gallery. With local features named rootsift in the train store
pairs are verified by them; --no-geometry leaves that out.

OMP_NUM_THREADS=1 python benchmarks/clean_training.py --train STORE --query STORE --gallery STORE
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from landmark.artifact.descriptors import DescriptorStore
from landmark.clean.candidates import find_candidates
from landmark.clean.pairs import Pairs
from landmark.clean.selection import Photos, Rule, null_scores, select
from landmark.clean.verification import verify_candidates
from landmark.loss import ArcFace
from landmark.metric.gldv2 import map_at_k
from landmark.search import Flat
from landmark.verify import Verifier

DEFAULT = Rule(3, None, 0.01, 0.2)


def polluted(labels, share, seed):
    """Return labels of which a share is another landmark's, and which these are."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(labels))[: round(share * len(labels))]
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + random.integers(1, labels.max() + 1, len(chosen))) % (
        labels.max() + 1
    )
    return wrong, wrong != labels


def show(name, is_kept, is_wrong):
    """Print how much of the wrong labels is thrown out and how much of the others is kept."""
    out, kept = (~is_kept)[is_wrong].mean(), is_kept[~is_wrong].mean()
    print(f"  {name:<52} {out:6.1%} of wrong out  {kept:6.1%} of right kept", flush=True)
    return out, kept


def compare(pairs, photos, is_wrong, geometry):
    """Print what several rules make of one draw; return what the default keeps."""
    rules = {"agreement of the nearest (geometry=false)": (Rule(min_agreement=0.2), False)}
    if geometry:
        rules |= {
            "RootSIFT, 3 verified": (Rule(3), True),
            "RootSIFT, 1 verified": (Rule(1), True),
            "RootSIFT, 3 of 30 inliers": (Rule(3, 30), True),
        }
    for name, (rule, verified) in rules.items():
        show(name, select(pairs, photos, rule, verified).is_kept, is_wrong)
    if geometry:
        of_null = null_scores(pairs, photos, 0.01)
        both = pairs.cosine / pairs.cosine.std() + 0.5 * pairs.scores / of_null.std()
        for name, kind in {"cosine": pairs.cosine, "cosine + RootSIFT": both}.items():
            other = Pairs(pairs.a, pairs.b, pairs.cosine, pairs.inliers, kind.astype("f4"))
            kept = select(other, photos, Rule(3)).is_kept
            show(f"{name}, 3 above the threshold", kept, is_wrong)
    selection = select(pairs, photos, DEFAULT, geometry)
    show("default" if geometry else "default without geometry", selection.is_kept, is_wrong)
    return selection.is_kept


def train(vectors, labels, seed, steps, dim):
    """Train a linear layer with ArcFace on descriptors; return its weights."""
    torch.manual_seed(seed)
    classes, targets = np.unique(labels, return_inverse=True)
    layer = torch.nn.Linear(vectors.shape[1], dim, bias=False)
    loss = ArcFace(dim, len(classes))
    optimizer = torch.optim.Adam([*layer.parameters(), *loss.parameters()], 1e-3)
    images, targets = torch.from_numpy(vectors), torch.from_numpy(targets)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        loss(layer(images[batch]), targets[batch]).backward()
        optimizer.step()
    return layer.weight.detach().numpy().T


def map_of(weights, query, gallery):
    """Return the mAP@100 of an exact search with projected descriptors."""
    projected = [np.asarray(store.vectors, np.float32) @ weights for store in (query, gallery)]
    projected = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in projected]
    rows, _ = Flat("cpu").build(projected[1]).search(projected[0], 100)
    relevant = query.landmark_ids[:, None] == gallery.landmark_ids[rows]
    positives = (query.landmark_ids[:, None] == gallery.landmark_ids).sum(axis=1)
    return map_at_k(relevant, positives)


def verified(store, index, draws, geometry):
    """Return the candidates of each draw of labels, and the pairs of all draws, verified once."""
    found = [find_candidates(index, labels.astype(np.int32)) for labels, _ in draws]
    pairs = np.unique(np.concatenate([one.pairs for one in found]), axis=0)
    local = store.local("rootsift") if geometry else None
    print(f"{len(pairs):,} pairs of all draws", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return found, verify_candidates(
            pairs,
            (store.vectors, store.vectors),
            Verifier() if geometry else None,
            (local, local) if geometry else None,
            Path(folder),
        )


def run(store, query, gallery, arguments):
    """Clean and train for each seed; print the results."""
    geometry = not arguments.no_geometry
    labels = np.unique(store.landmark_ids, return_inverse=True)[1]
    vectors = np.array(store.vectors, np.float32)
    draws = [polluted(labels, arguments.share, seed) for seed in range(arguments.seeds)]
    found, every = verified(store, Flat("cpu").build(vectors), draws, geometry)
    keys = every.a.astype(np.int64) * len(store) + every.b
    gains = []
    for seed, ((wrong, is_wrong), own) in enumerate(zip(draws, found, strict=True)):
        print(f"seed {seed}: {is_wrong.sum()} of {len(labels)} labels wrong", flush=True)
        at = np.searchsorted(keys, own.pairs[:, 0].astype(np.int64) * len(store) + own.pairs[:, 1])
        columns = (every.a, every.b, every.cosine, every.inliers, every.scores)
        pairs = Pairs(*(column[at] for column in columns))
        photos = Photos(wrong.astype(np.int32), *own[1:])
        is_kept = compare(pairs, photos, is_wrong, geometry)
        scores = {}
        for name, rows, target in (
            ("polluted", slice(None), wrong),
            ("cleaned", is_kept, wrong),
            ("true labels", slice(None), labels),
        ):
            weights = train(vectors[rows], target[rows], seed, arguments.steps, arguments.dim)
            scores[name] = map_of(weights, query, gallery)
        gains.append(scores["cleaned"] - scores["polluted"])
        print("  mAP@100 " + "   ".join(f"{name} {one:.4f}" for name, one in scores.items()))
    print(f"cleaned - polluted: {np.mean(gains):+.4f} on average, {min(gains):+.4f} at least")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("train", "query", "gallery"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.2, help="share of wrong labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--no-geometry", action="store_true")
    arguments = parser.parse_args()
    stores = [
        DescriptorStore.open(getattr(arguments, name)) for name in ("train", "query", "gallery")
    ]
    run(*stores, arguments)


if __name__ == "__main__":
    main()
