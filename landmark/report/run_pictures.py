"""The pictures of a training run: its curves, and the queries that it finds hardest."""

from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from landmark.report.curves import draw_curves
from landmark.report.hardest import Entries, Validation, draw_hardest
from landmark.report.photos import Entry, table_entries

if TYPE_CHECKING:
    from landmark.data import LandmarkData
    from landmark.task import RetrievalTask


def draw_pictures(folder: Path, task: "RetrievalTask", data: "LandmarkData") -> dict[str, Path]:
    """Draws `curves.png` from metrics.csv and `hardest.png` from the last validation.

    Args:
        folder: the run folder.
        task: holds what the last validation found.
        data: the photos that it validated with.

    Returns:
        Name → file of each picture that there was something to draw for.
    """
    drawn = {"curves": draw_curves(folder / "metrics.csv", folder / "curves.png")}
    if task.found is not None:
        queries, rows = task.found
        validation = Validation(
            rows,
            data.query_labels[queries],
            data.gallery_labels,
            _among(queries, table_entries(data.query_table)),
            table_entries(data.gallery_table),
        )
        drawn["hardest"] = draw_hardest(folder / "hardest.png", validation, k=task.k)
    return {name: file for name, file in drawn.items() if file is not None}


def _among(chosen: NDArray, entries: Entries) -> Entries:
    """Looks up places in `chosen`, rows of the table behind `entries`."""

    def of_places(places: NDArray) -> list[Entry]:
        return list(entries(chosen[places]))

    return of_places
