"""Two-stage re-ranking, votes given: ours for all queries beside the released way, query by query.

Claims, at GLDv2's full size: at most 10 s in all, and less than 2 GiB beside the inputs.

python benchmarks/rerank_two_stage.py
python benchmarks/rerank_two_stage.py --queries 10000 --gallery 100000 --landmarks 20000
"""

import argparse

import numpy as np
import pandas as pd
from landmark_descriptors import measured

from landmark.rerank import TwoStage
from landmark.rerank.voting import Votes


def made_up(queries, gallery, landmarks, kept):
    """Rankings and votes: most of what is found shows the query's landmark, if there is any."""
    random = np.random.default_rng(0)
    share = 1 / (10 + np.arange(landmarks)) ** 0.7
    asked, shown = (random.choice(landmarks, n, p=share / share.sum()) for n in (queries, gallery))
    votes = [Votes(landmarks, random.random(len(landmarks))) for landmarks in (asked, shown)]
    by_landmark = np.argsort(shown, kind="stable")
    first, last = (np.searchsorted(shown[by_landmark], asked, side) for side in ("left", "right"))
    rows = random.integers(0, gallery, (queries, kept), dtype=np.int64)
    for place in range(0, kept, 2):  # every second result is right
        right = first + random.integers(0, 1 << 30, queries) % np.maximum(last - first, 1)
        rows[:, place] = np.where(
            last > first, by_landmark[np.minimum(right, gallery - 1)], rows[:, place]
        )
    ordered = np.sort(rows, axis=1)
    again = np.concatenate(
        [np.zeros((queries, 1), bool), ordered[:, 1:] == ordered[:, :-1]], axis=1
    )
    rows = np.sort(np.where(again, -1, ordered), axis=1)[:, ::-1].astype(np.int32)  # pads last
    scores = np.where(rows < 0, -np.inf, -np.sort(-random.random(rows.shape), axis=1))
    return rows, scores.astype(np.float32), votes


def released(rows, query, gallery, threshold=0.6):
    """Sort and insert with one pandas frame of the gallery, looked up for each query."""
    ids = np.array([f"{row:016x}" for row in range(len(gallery.landmarks))])
    voted = pd.DataFrame({"landmark_id": gallery.landmarks, "score": gallery.scores}, index=ids)
    voted = voted.sort_values("score", ascending=False, kind="stable")

    def one(row, landmark, score):
        listed = ids[row[row >= 0]]
        positive = voted.loc[listed, "landmark_id"] == landmark
        ranked = (~positive).sort_values(kind="mergesort").index.to_list()
        whole = voted[voted["landmark_id"] == landmark]
        whole = whole[score + whole["score"] > threshold]
        new = sorted(set(whole.index) - set(listed), key=whole.index.get_loc)
        count = int(positive.sum())
        return (ranked[:count] + new + ranked[count:])[: len(row)]

    return [
        [int(name, 16) for name in one(row, query.landmarks[i], query.scores[i])]
        for i, row in enumerate(rows)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=117_577)
    parser.add_argument("--gallery", type=int, default=761_757)
    parser.add_argument("--landmarks", type=int, default=81_313)
    parser.add_argument("--kept", type=int, default=100)
    parser.add_argument("--theirs", type=int, default=40, help="queries of the released way")
    given = parser.parse_args()
    rows, scores, (query, gallery) = made_up(
        given.queries, given.gallery, given.landmarks, given.kept
    )
    (ours, _), seconds = measured(
        f"ours, {given.queries:,} queries",
        lambda: TwoStage().rerank(rows, scores, query, gallery),
        "queries",
        given.queries,
    )
    some = min(given.theirs, given.queries)
    theirs, theirs_seconds = measured(
        f"released way, {some} queries",
        lambda: released(rows[:some], query, gallery),
        "queries",
        some,
    )
    alike = [row[row >= 0].tolist() == other for row, other in zip(ours, theirs, strict=False)]
    whole = theirs_seconds / some * given.queries
    print(f"same rankings: {np.mean(alike):.3f}; released way for all queries {whole:,.0f} s")
    print(f"ratio {whole / seconds:,.0f}")


if __name__ == "__main__":
    main()
