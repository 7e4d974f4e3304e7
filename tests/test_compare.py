"""`landmark compare` prints a line per ranking and step, with the change between lines."""

import numpy as np
import pytest

from landmark.artifact.rankings import Rankings
from landmark.cli.compare import compare
from landmark.error import UserError


def ranking(folder, *steps):
    """Write a ranking whose steps have these names, mAP and top-1."""
    metrics = [{"step": name, "map_at_100": value, "top_1": top_1} for name, value, top_1 in steps]
    rows = np.zeros((1, 1), np.int32)
    rankings = Rankings(
        rows, rows.astype("f4"), np.array(["q"]), np.array(["g"]), metrics={"steps": metrics}
    )
    folder.mkdir()
    rankings.write_into(folder)
    return folder


def test_each_ranking_and_step_is_one_line(tmp_path):
    first = ranking(tmp_path / "a", ("search", 0.25, 0.5))
    second = ranking(tmp_path / "b", ("search", 0.5, 0.75), ("alpha_qe", 0.4375, 1.0))
    table = compare([f"untrained={first}", f"trained, 3 scales={second}"])
    assert table.splitlines() == [
        "                   mAP@100   top-1  change of mAP",
        "untrained           0.2500  0.5000",
        "trained, 3 scales   0.5000  0.7500  +0.2500",
        "+ alpha_qe          0.4375  1.0000  -0.0625",
    ]


def test_a_ranking_without_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a was not scored"):
        compare([f"name={ranking(tmp_path / 'a')}"])


def test_a_ranking_of_few_results_is_refused(tmp_path):
    folder = ranking(tmp_path / "a", ("search", 0.5, 1.0))
    metrics = folder / "metrics.json"
    metrics.write_text(metrics.read_text().replace("map_at_100", "map_at_20"))
    with pytest.raises(UserError, match=r"a ranks 20 photos per query, too few for mAP@100"):
        compare([f"name={folder}"])
