"""Several rules at once: the table of a grid, and what a rule that keeps nothing is missing."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from landmark.clean.pairs import Pairs
from landmark.clean.selection import FEWEST_KEPT, Photos, Rule, Selection, select


def combine(**values: Any) -> list[Rule]:  # noqa: ANN401
    """Return a rule for each combination of values; a list holds several values.

    Example:
        >>> [rule.min_inliers for rule in combine(min_neighbours=3, min_inliers=[20, 30])]
        [20, 30]
    """
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    return [
        Rule(**dict(zip(values, combination, strict=True)))
        for combination in itertools.product(*lists)
    ]


def grid_table(pairs: Pairs, photos: Photos, rules: Sequence[Rule], geometry: bool) -> pd.DataFrame:
    """Return a row for each rule: its thresholds, and the photos and landmarks that it keeps."""
    rows = []
    for rule in rules:
        selection = select(pairs, photos, rule, geometry)
        kept = np.unique(photos.labels[selection.is_kept])
        shown = {
            "min_inliers": rule.min_inliers,
            "false_rate": None if rule.min_inliers is not None else rule.false_rate,
            "score above": None if selection.threshold is None else round(selection.threshold, 2),
            "min_neighbours": rule.min_neighbours,
            "min_agreement": rule.min_agreement,
        }
        if not geometry:
            shown = {"min_agreement": rule.min_agreement}
        photos_kept = int(selection.is_kept.sum())
        share = f"{photos_kept / max(1, len(photos.labels)):.1%}"
        rows.append(shown | {"photos": photos_kept, "share": share, "landmarks": len(kept)})
    frame = pd.DataFrame(rows)
    # Settings that no rule has are not columns.
    return frame.dropna(axis=1, how="all")


def as_text(frame: pd.DataFrame) -> str:
    """Lay a table out in columns, aligned to the right."""
    cells = [[str(name) for name in frame.columns]]
    cells += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _cell(value: Any) -> str:  # noqa: ANN401
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def nothing_kept(pairs: Pairs, photos: Photos, selection: Selection, geometry: bool) -> str:
    """Say how much each threshold keeps, of a rule that keeps no photo."""
    rule, same = selection.rule, photos.is_same(pairs)
    parts = []
    if geometry:
        verified, candidates = int((selection.is_verified & same).sum()), int(same.sum())
        parts.append(
            f"{selection.limit} keeps {verified:,} of {candidates:,} pairs of one landmark"
        )
        enough = int((selection.neighbours >= rule.min_neighbours).sum())
        parts.append(f"min_neighbours={rule.min_neighbours} keeps {enough:,} photos")
    if rule.min_agreement is not None:
        agreeing = int(photos.agrees(rule.min_agreement).sum())
        parts.append(f"min_agreement={rule.min_agreement:g} keeps {agreeing:,} photos")
    parts.append(f"and no landmark keeps {FEWEST_KEPT} photos")
    return ", ".join(parts)
