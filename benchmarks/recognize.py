"""Recognition with a quarter of the landmarks held out of train, beside the nearest train photo.

    python benchmarks/recognize.py --train STORE --query STORE [--fit STORE] [--seeds 6:18]

For each seed a quarter of the landmarks does not vote, and their queries show no landmark. Prints
GAP and top-1 of each way of voting, and for how many seeds they are above (not below) those of the
nearest photo; then, for a threshold of 95 % precision fitted on other queries (a random half of
them, or --fit), the precision and recall that it has. With --local NAME votes with inliers too.
"""

import argparse

import numpy as np

from landmark.artifact.recognition import Recognition
from landmark.fit.calibration import fit_calibration
from landmark.recognize import Recognizer
from landmark.recognize.evaluation import gap_and_top_1, named
from landmark.recognize.stores import RecognitionStores
from landmark.search import Flat
from landmark.verify import Verifier, verify_pairs

YEAR_2019 = "2019: k=3 temperature=null rival=0"
WAYS = {
    "default": {},
    "temperature=0.1": {"temperature": 0.1},
    "rival=0": {"rival": 0},
    YEAR_2019: {"k": 3, "temperature": None, "rival": 0},
}
PRECISION = 0.95


def recognize(stores, recognizer, **evidence):
    """Return the predictions, and their recognition with ids and truth."""
    found = recognizer(
        stores.query.vectors,
        Flat().build(stores.train.vectors),
        stores.codes,
        own_rows=stores.own_rows,
        **evidence,
    )
    made = Recognition(
        stores.query.ids, named(found.landmarks, stores.names), found.scores, truth=stores.truth
    )
    return found, made


def row(name, values, base):
    """Print the mean GAP and top-1 of (S, 2) beside those of the nearest photo."""
    values, base = np.array(values), np.array(base)
    higher, not_lower = (values[:, 0] > base[:, 0]).sum(), (values[:, 1] >= base[:, 1]).sum()
    print(
        f"{name:<36} GAP {values[:, 0].mean():.4f}   top-1 {values[:, 1].mean():.4f}   "
        f"GAP higher {higher}/{len(values)}, top-1 not lower {not_lower}/{len(values)}",
        flush=True,
    )


def part(made, rows):
    """Return some rows of a recognition."""
    return Recognition(
        made.ids[rows], made.landmarks[rows], made.scores[rows], None, made.truth[rows]
    )


def halves(made, seed):
    """Split the queries at random into those to fit to and those to measure."""
    order = np.random.default_rng(seed).permutation(len(made.ids))
    return [part(made, rows) for rows in np.array_split(order, 2)]


def votes(arguments, seeds):
    """Print the table of the ways of voting."""
    results, nearest = {}, []
    for seed in seeds:
        stores = RecognitionStores.open(
            arguments.query, arguments.train, hold_out=0.25, seed=seed, allow_mixed=True
        )
        ways = {name: (settings, {}) for name, settings in WAYS.items()}
        if arguments.local:
            query, train = (s.local(arguments.local) for s in (stores.query, stores.train))

            def count(pairs, query=query, train=train):
                return verify_pairs(Verifier(), query, train, pairs).inliers

            evidence = {"count_inliers": count}
            ways["default, with inliers"] = {}, evidence
            ways["2019 with inliers"] = {**WAYS[YEAR_2019], "verified": 3, "inliers": 1}, evidence
        for name, (settings, evidence) in ways.items():
            found, made = recognize(stores, Recognizer(**settings), **evidence)
            metrics = gap_and_top_1(made.ids, made.landmarks, made.scores, made.truth)
            results.setdefault(name, []).append((metrics["gap"], metrics["top_1"]))
        first = named(found.nearest, stores.names)
        metrics = gap_and_top_1(made.ids, first, found.nearest_cosines, made.truth)
        nearest.append((metrics["gap"], metrics["top_1"]))
    row("nearest train photo", nearest, nearest)
    for name, values in results.items():
        row(name, values, nearest)


def abstention(arguments, seeds):
    """Print the precision of the predictions above a threshold fitted on other queries."""
    kept = []
    for seed in seeds:
        keywords = {"hold_out": 0.25, "seed": seed, "allow_mixed": True}
        stores = RecognitionStores.open(arguments.query, arguments.train, **keywords)
        _, made = recognize(stores, Recognizer())
        if arguments.fit:
            others = RecognitionStores.open(arguments.fit, arguments.train, **keywords)
            fitted = recognize(others, Recognizer())[1], made
        else:
            fitted = halves(made, seed)
        threshold = fit_calibration(fitted[0]).threshold(PRECISION)
        above = fitted[1].is_predicted & (fitted[1].scores >= threshold)
        right = int(fitted[1].is_correct[above].sum())
        kept.append((int(above.sum()), right, fitted[1].positives))
    number, right, positives = np.array(kept).T
    precisions = right / number
    print(
        f"threshold for {PRECISION:.0%}: precision {precisions.mean():.4f} "
        f"(all seeds together {right.sum() / number.sum():.4f}, at least 0.93 in "
        f"{(precisions >= 0.93).sum()}/{len(kept)}, lowest {precisions.min():.4f})   "
        f"recall {(right / positives).mean():.4f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--fit", help="store of other queries to fit the threshold to")
    parser.add_argument("--local", help="name of the local features of both stores")
    parser.add_argument("--seeds", default="6:18", help="FIRST:STOP")
    arguments = parser.parse_args()
    first, stop = map(int, arguments.seeds.split(":"))
    votes(arguments, range(first, stop))
    abstention(arguments, range(first, stop))


if __name__ == "__main__":
    main()
