"""Offline diffusion, truncated: ours beside the released way, one scipy solver call a photo.

Claims: at least five times as many photos a second, and memory that is linear in the photos: the
last lines run the whole re-ranking at two sizes.

python benchmarks/rerank_diffusion.py
python benchmarks/rerank_diffusion.py --photos 20000 --trunc 1000 --theirs 2000 --grow 100000
"""

import argparse

import numpy as np
from joblib import Parallel, delayed
from landmark_descriptors import landmark_descriptors, measured
from scipy import sparse
from scipy.sparse.linalg import cg

from landmark.rerank import Diffusion
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat


def laplacian(rows, cosines, gamma=3, alpha=0.99):
    """I - alpha S of the mutual neighbours, found photo by photo."""
    weights = np.maximum(cosines, 0) ** gamma
    photos, others, values = [], [], []
    for i in range(len(rows)):
        mutual = np.isin(rows[rows[i]], i).any(axis=1)
        mutual[0] = False
        photos.append(np.full(mutual.sum(), i))
        others.append(rows[i, mutual])
        values.append(weights[i, mutual])
    size = (len(rows), len(rows))
    entries = np.concatenate(values), (np.concatenate(photos), np.concatenate(others))
    affinity = sparse.csc_matrix(entries, shape=size, dtype=np.float32)
    degrees = affinity @ np.ones(len(rows)) + 1e-12
    root = sparse.dia_matrix((degrees**-0.5, [0]), shape=size, dtype=np.float32)
    identity = sparse.dia_matrix((np.ones(len(rows)), [0]), shape=size, dtype=np.float32)
    return (identity - alpha * (root @ affinity @ root)).tocsr()


def released(rows, cosines, kd, some):
    """Diffusion of the first photos by the released code's steps, on threads as there."""
    system = laplacian(rows[:, :kd], cosines[:, :kd])
    start = np.zeros(rows.shape[1])
    start[0] = 1

    def one(i):
        inside = system[rows[i]][:, rows[i]]
        return cg(inside, start, rtol=1e-6, atol=0, maxiter=20)[0]

    return np.array(
        Parallel(n_jobs=-1, prefer="threads")(delayed(one)(i) for i in range(some)), np.float32
    )


def compare(given):
    photos, _ = landmark_descriptors(given.photos, given.photos // given.each, given.dim)
    (rows, cosines), search_seconds = measured(
        f"search, {given.trunc} neighbours (both need it)",
        lambda: all_neighbours([Flat().build(photos)], given.trunc),
    )
    diffusion = Diffusion(n_trunc=given.trunc, kd=given.kd)
    ours, seconds = measured(
        f"ours, {given.photos:,} photos",
        lambda: sparse.vstack(list(diffusion.solutions(*diffusion.graph(rows, cosines)))),
        "photos",
        given.photos,
    )
    some = min(given.theirs, given.photos)
    theirs, theirs_seconds = measured(
        f"released way, graph and {some:,} photos",
        lambda: released(rows, cosines, given.kd, some),
        "photos",
        some,
    )
    far = np.abs(np.take_along_axis(ours[:some].toarray(), rows[:some], 1) - theirs).max()
    print(f"largest difference {far:.1e}")
    ratio = theirs_seconds / some / (seconds / given.photos)
    search = search_seconds / given.photos
    with_search = (theirs_seconds / some + search) / (seconds / given.photos + search)
    print(f"ratio {ratio:.1f}, the search included on both sides {with_search:.1f}")


def grow(given):
    for photos in (given.grow // 4, given.grow):
        vectors, _ = landmark_descriptors(photos, photos // given.each, given.dim)
        asked = photos // 20
        before = Retrieval.from_search(vectors[:asked], vectors[asked:], 100, Flat())
        measured(
            f"whole re-ranking, {asked:,} of {photos:,} photos ask",
            lambda before=before: Diffusion(n_trunc=given.trunc, kd=given.kd)(before),
            "photos",
            photos,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=6000)
    parser.add_argument("--each", type=int, default=10, help="photos a landmark")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--trunc", type=int, default=500)
    parser.add_argument("--kd", type=int, default=50)
    parser.add_argument("--theirs", type=int, default=6000, help="photos of the released way")
    parser.add_argument("--grow", type=int, default=20_000, help="the larger whole re-ranking")
    given = parser.parse_args()
    compare(given)
    grow(given)


if __name__ == "__main__":
    main()
