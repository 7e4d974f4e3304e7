"""Mean average precision of long rankings: ours against the definition, query by query, with sets.

Claim: scores 70 queries with a million distractors at least ten times as fast.

python benchmarks/metric_map.py
python benchmarks/metric_map.py --distractors 100000
"""

import argparse

import numpy as np
from landmark_descriptors import measured

from landmark.metric import revisited


def definition(rows, ground_truth):
    """The published evaluation, photo by photo: junk is skipped, the area is trapezoidal."""
    result = {}
    for protocol, (positive_kinds, junk_kinds) in revisited.PROTOCOLS.items():
        precisions = []
        for ranking, truth in zip(rows, ground_truth, strict=True):
            positives = {row for kind in positive_kinds for row in truth[kind]}
            junk = {row for kind in junk_kinds for row in truth[kind]}
            if not positives:
                continue
            found, passed, area = 0, 0, 0.0
            for row in ranking.tolist():
                if row in positives:
                    before = found / passed if passed else 1.0
                    found += 1
                    area += (before + found / (passed + 1)) / (2 * len(positives))
                elif row in junk:
                    continue
                passed += 1
            precisions.append(area)
        result[protocol] = float(np.mean(precisions))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=70)
    parser.add_argument("--gallery", type=int, default=4993)
    parser.add_argument("--distractors", type=int, default=1_000_000)
    parser.add_argument("--theirs", type=int, default=10, help="queries that the definition scores")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    photos = given.gallery + given.distractors
    rows = np.stack([random.permutation(photos).astype(np.int32) for _ in range(given.queries)])
    truth = []
    for _ in range(given.queries):
        listed = random.permutation(given.gallery)
        easy, hard, junk = np.split(listed[:300], [80, 180])
        truth.append({"easy": easy, "hard": hard, "junk": junk})
    _, seconds = measured("ours", lambda: revisited.evaluate(rows, truth), "queries", given.queries)
    some = min(given.theirs, given.queries)
    theirs, theirs_seconds = measured(
        f"definition with sets, {some} queries",
        lambda: definition(rows[:some], truth[:some]),
        "queries",
        some,
    )
    ours = revisited.evaluate(rows[:some], truth[:some])
    difference = max(abs(ours[name]["map"] - theirs[name]) for name in theirs)
    ratio = theirs_seconds / some / (seconds / given.queries)
    print(f"largest difference of the mAP {difference:.1e}; ratio {ratio:,.0f}")


if __name__ == "__main__":
    main()
