"""The pictures of a training run: its curves, and its hardest validation queries."""

from pathlib import Path
from typing import TYPE_CHECKING

from landmark.report.curves import draw_curves
from landmark.report.hardest import Validation, draw_hardest
from landmark.report.photos import TablePhotos

if TYPE_CHECKING:
    from landmark.data import LandmarkData
    from landmark.task import RetrievalTask


def draw_pictures(folder: Path, task: "RetrievalTask", data: "LandmarkData") -> dict[str, Path]:
    """Draw `curves.png` from metrics.csv and `hardest.png` from the last validation.

    Args:
        folder: The run folder.
        task: Holds the rankings of the last validation.
        data: The photos it validated with.

    Returns:
        Name → file of each picture drawn; one without data is not drawn.
    """
    drawn = {"curves": draw_curves(folder / "metrics.csv", folder / "curves.png")}
    if task.ranking is not None:
        queries, rows = task.ranking
        validation = Validation(
            rows,
            data.query_labels[queries],
            data.gallery_labels,
            TablePhotos(data.query_table, queries),
            TablePhotos(data.gallery_table),
        )
        drawn["hardest"] = draw_hardest(folder / "hardest.png", validation, k=task.k)
    return {name: file for name, file in drawn.items() if file is not None}
