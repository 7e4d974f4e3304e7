"""Two-stage re-ranking from precomputed votes: ours, and the released code, query by query.

Claims, at the full size of GLDv2: ours takes at most 10 s, and less than 2 GiB besides the inputs.

python benchmarks/rerank_two_stage.py
python benchmarks/rerank_two_stage.py --queries 10000 --gallery 100000 --landmarks 20000
"""

import argparse

import numpy as np
import pandas as pd
from _descriptors import landmark_shares
from _measure import measure

from landmark.rerank import TwoStage
from landmark.rerank.voting import Votes


def synthetic_rankings(queries, gallery, landmarks, k):
    """Return rows, scores and votes: half of the results show the query's landmark, if any do."""
    random = np.random.default_rng(0)
    share = landmark_shares(landmarks)
    query_labels, labels = (random.choice(landmarks, n, p=share) for n in (queries, gallery))
    votes = [Votes(voted, random.random(len(voted))) for voted in (query_labels, labels)]
    by_landmark = np.argsort(labels, kind="stable")
    first, last = (
        np.searchsorted(labels[by_landmark], query_labels, side) for side in ("left", "right")
    )
    rows = random.integers(0, gallery, (queries, k), dtype=np.int64)
    for rank in range(0, k, 2):  # every second result is correct
        correct = first + random.integers(0, 1 << 30, queries) % np.maximum(last - first, 1)
        rows[:, rank] = np.where(
            last > first, by_landmark[np.minimum(correct, gallery - 1)], rows[:, rank]
        )
    ordered = np.sort(rows, axis=1)
    repeated = np.concatenate(
        [np.zeros((queries, 1), bool), ordered[:, 1:] == ordered[:, :-1]], axis=1
    )
    rows = np.sort(np.where(repeated, -1, ordered), axis=1)[:, ::-1].astype(
        np.int32
    )  # padding last
    scores = np.where(rows < 0, -np.inf, -np.sort(-random.random(rows.shape), axis=1))
    return rows, scores.astype(np.float32), votes


def released(rows, query, gallery, threshold=0.6):
    """Sort and insert with one pandas frame of the gallery, as the released code does."""
    ids = np.array([f"{row:016x}" for row in range(len(gallery.landmarks))])
    voted = pd.DataFrame({"landmark_id": gallery.landmarks, "score": gallery.scores}, index=ids)
    voted = voted.sort_values("score", ascending=False, kind="stable")

    def rerank(row, landmark, score):
        results = ids[row[row >= 0]]
        positive = voted.loc[results, "landmark_id"] == landmark
        ranked = (~positive).sort_values(kind="mergesort").index.to_list()
        same = voted[voted["landmark_id"] == landmark]
        same = same[score + same["score"] > threshold]
        new = sorted(set(same.index) - set(results), key=same.index.get_loc)
        count = int(positive.sum())
        return (ranked[:count] + new + ranked[count:])[: len(row)]

    return [
        [int(name, 16) for name in rerank(row, query.landmarks[i], query.scores[i])]
        for i, row in enumerate(rows)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=117_577)
    parser.add_argument("--gallery", type=int, default=761_757)
    parser.add_argument("--landmarks", type=int, default=81_313)
    parser.add_argument("--kept", type=int, default=100)
    parser.add_argument(
        "--theirs", type=int, default=40, help="queries that the released code ranks"
    )
    arguments = parser.parse_args()
    rows, scores, (query, gallery) = synthetic_rankings(
        arguments.queries, arguments.gallery, arguments.landmarks, arguments.kept
    )
    (ours, _), seconds = measure(
        f"ours, {arguments.queries:,} queries",
        lambda: TwoStage().rerank(rows, scores, query, gallery),
        "queries",
        arguments.queries,
    )
    count = min(arguments.theirs, arguments.queries)
    expected, peer_seconds = measure(
        f"released code, {count} queries",
        lambda: released(rows[:count], query, gallery),
        "queries",
        count,
    )
    equal = [row[row >= 0].tolist() == other for row, other in zip(ours, expected, strict=False)]
    total = peer_seconds / count * arguments.queries
    print(f"same rankings: {np.mean(equal):.3f}; released code for all queries {total:,.0f} s")
    print(f"ratio {total / seconds:,.0f}")


if __name__ == "__main__":
    main()
