"""Offline diffusion, truncated: ours, and the released code with one scipy solver call per photo.

Claims: at least five times as many photos per second, and memory that is linear in the photos. The
last lines run the complete re-ranking at two sizes.

python benchmarks/rerank_diffusion.py
python benchmarks/rerank_diffusion.py --photos 20000 --trunc 1000 --theirs 2000 --grow 100000
"""

import argparse

import numpy as np
from _descriptors import landmark_descriptors
from _measure import measure
from joblib import Parallel, delayed
from scipy import sparse
from scipy.sparse.linalg import cg

from landmark.rerank import Diffusion
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat


def laplacian(rows, cosines, gamma=3, alpha=0.99):
    """Return I - alpha S of the mutual neighbours, computed photo by photo."""
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


def released(rows, cosines, kd, count):
    """Diffuse the first `count` photos by the steps of the released code, on threads like it."""
    system = laplacian(rows[:, :kd], cosines[:, :kd])
    start = np.zeros(rows.shape[1])
    start[0] = 1

    def solve(i):
        subgraph = system[rows[i]][:, rows[i]]
        return cg(subgraph, start, rtol=1e-6, atol=0, maxiter=20)[0]

    return np.array(
        Parallel(n_jobs=-1, prefer="threads")(delayed(solve)(i) for i in range(count)), np.float32
    )


def compare_methods(arguments):
    photos, _ = landmark_descriptors(
        arguments.photos, arguments.photos // arguments.each, arguments.dim
    )
    (rows, cosines), search_seconds = measure(
        f"search, {arguments.trunc} neighbours (needed by both)",
        lambda: all_neighbours([Flat().build(photos)], arguments.trunc),
    )
    diffusion = Diffusion(n_trunc=arguments.trunc, kd=arguments.kd)
    ours, seconds = measure(
        f"ours, {arguments.photos:,} photos",
        lambda: sparse.vstack(list(diffusion.solutions(*diffusion.graph(rows, cosines)))),
        "photos",
        arguments.photos,
    )
    count = min(arguments.theirs, arguments.photos)
    expected, peer_seconds = measure(
        f"released code, graph and {count:,} photos",
        lambda: released(rows, cosines, arguments.kd, count),
        "photos",
        count,
    )
    actual = np.take_along_axis(ours[:count].toarray(), rows[:count], 1)
    print(f"largest difference {np.abs(actual - expected).max():.1e}")
    ours_each, peer_each = seconds / arguments.photos, peer_seconds / count
    search_each = search_seconds / arguments.photos
    with_search = (peer_each + search_each) / (ours_each + search_each)
    print(
        f"ratio {peer_each / ours_each:.1f}, including the search on both sides {with_search:.1f}"
    )


def compare_sizes(arguments):
    for photos in (arguments.grow // 4, arguments.grow):
        vectors, _ = landmark_descriptors(photos, photos // arguments.each, arguments.dim)
        queries = photos // 20
        retrieval = Retrieval.from_search(vectors[:queries], vectors[queries:], 100, Flat())
        measure(
            f"re-ranking, {queries:,} of {photos:,} photos are queries",
            lambda retrieval=retrieval: Diffusion(n_trunc=arguments.trunc, kd=arguments.kd)(
                retrieval
            ),
            "photos",
            photos,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=6000)
    parser.add_argument("--each", type=int, default=10, help="photos per landmark")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--trunc", type=int, default=500)
    parser.add_argument("--kd", type=int, default=50)
    parser.add_argument(
        "--theirs", type=int, default=6000, help="photos that the released code diffuses"
    )
    parser.add_argument("--grow", type=int, default=20_000, help="photos of the larger re-ranking")
    arguments = parser.parse_args()
    compare_methods(arguments)
    compare_sizes(arguments)


if __name__ == "__main__":
    main()
