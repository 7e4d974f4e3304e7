"""Draw the pictures of a training run: its curves and its hardest validation queries."""

from pathlib import Path
from typing import TYPE_CHECKING

from landmark.artifact.picture import write_png
from landmark.report.curves import curves_figure
from landmark.report.hardest import Validation, hardest_figure
from landmark.report.photos import TablePhotos

if TYPE_CHECKING:
    from landmark.data import LandmarkData
    from landmark.task import RetrievalTask


def draw_pictures(folder: Path, task: "RetrievalTask", data: "LandmarkData") -> dict[str, Path]:
    """Draw `curves.png` from metrics.csv and `hardest.png` from the last validation.

    Args:
        folder: The run folder.
        task: Task with the rankings of the last validation.
        data: Data of the validation.

    Returns:
        Name → file of each picture drawn. Pictures without data are skipped.
    """
    drawn = {}
    if curves := curves_figure(folder / "metrics.csv"):
        drawn["curves"] = write_png(curves, folder / "curves.png", dpi=150)
    if task.ranking is not None:
        queries, rows = task.ranking
        validation = Validation(
            rows,
            data.query_labels[queries],
            data.gallery_labels,
            TablePhotos(data.query_table, queries),
            TablePhotos(data.gallery_table),
        )
        if hardest := hardest_figure(validation, k=task.k):
            drawn["hardest"] = write_png(hardest, folder / "hardest.png", dpi=100)
    return drawn
