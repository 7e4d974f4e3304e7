"""Alpha query expansion with its second search, and two searches by faiss.

Claim: search, expansion and second search take at most 1.1 times the time of two faiss searches.

python benchmarks/rerank_expansion.py
python benchmarks/rerank_expansion.py --gallery 761757 --queries 2000
"""

import argparse

import faiss
import numpy as np
from _descriptors import landmark_descriptors
from _measure import measure

from landmark.rerank import AlphaQE
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat


def ours(query, gallery, k):
    return AlphaQE()(Retrieval.from_search(query, gallery, k, Flat(device="cpu")))


def faiss_twice(query, gallery, k):
    for _ in range(2):
        _, rows = faiss.knn(query, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kept", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    photos, _ = landmark_descriptors(
        arguments.queries + arguments.gallery, arguments.gallery // 10, arguments.dim
    )
    query, gallery = photos[: arguments.queries], photos[arguments.queries :]
    seconds = [
        [
            measure(name, lambda work=work: work(query, gallery, arguments.kept))[1]
            for name, work in (("ours: search, alpha_qe", ours), ("faiss, twice", faiss_twice))
        ]
        for _ in range(arguments.rounds)
    ]
    median, fastest = (np.divide(*reduce(seconds, axis=0)) for reduce in (np.median, np.min))
    print(f"ratio of the medians {median:.3f}, of the fastest {fastest:.3f}")


if __name__ == "__main__":
    main()
