"""Plot the hardest queries of a validation with their top results."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landmark.error import UserError
from landmark.metric.gldv2 import average_precision_at_k
from landmark.metric.relevance import hits_by_label
from landmark.report.photos import Entry, Photos
from landmark.report.thumbnail import thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#1b7f5a", "#c2412d"
_INK, _QUIET, _MAT = "#1f2328", "#5c636b", "#efece7"
_SIDE = 224
_LONGEST_NAME = 22


@dataclass(frozen=True, eq=False)
class Validation:
    """The rankings of a validation.

    Attributes:
        rows: (Q, K) gallery rows of each query, best first; -1 pads.
        query_labels: (Q,) landmark number of each query.
        gallery_labels: (N,) landmark number of each gallery photo.
        query_photos: The Q queries.
        gallery_photos: The N gallery photos.
    """

    rows: NDArray[np.integer]
    query_labels: NDArray[np.integer]
    gallery_labels: NDArray[np.integer]
    query_photos: Photos
    gallery_photos: Photos


def hardest_figure(
    validation: Validation, count: int = 8, results: int = 5, k: int = 100
) -> "Figure | None":
    """Make a matplotlib figure with one row per query, lowest average precision first.

    Args:
        validation: The rankings.
        count: Number of queries to show.
        results: Number of results to show per query.
        k: Cutoff of the average precision.

    Returns:
        None if no query has a positive in the gallery.
    """
    from matplotlib.figure import Figure

    rows, query_labels = validation.rows, validation.query_labels
    hits, relevant = hits_by_label(rows, query_labels, validation.gallery_labels)
    precision = average_precision_at_k(hits, relevant, k)
    hardest = np.argsort(precision, kind="stable")[: min(count, (relevant > 0).sum())]
    if not len(hardest):
        return None
    shown = np.unique(rows[hardest, :results])
    shown = shown[shown >= 0]
    entries = dict(zip(shown.tolist(), validation.gallery_photos.entries(shown), strict=True))

    figure = Figure(figsize=(1.6 * (results + 1), 1.9 * len(hardest) + 0.3), layout="constrained")
    axes = figure.subplots(len(hardest), results + 1, squeeze=False)
    for rank, axis in enumerate(axes[0]):
        axis.set_title("query" if rank == 0 else str(rank), fontsize=9, color=_QUIET)
    queries = validation.query_photos.entries(hardest)
    for line, query, entry in zip(axes, hardest.tolist(), queries, strict=True):
        caption = f"{_shortened(entry.landmark)}\naverage precision {precision[query]:.3f}"
        _show(line[0], entry, caption, None)
        for axis in line[1 + len(rows[query, :results]) :]:
            axis.set_axis_off()
        for axis, row in zip(line[1:], rows[query, :results].tolist(), strict=False):
            if row < 0:
                axis.set_axis_off()
                continue
            right = query_labels[query] == validation.gallery_labels[row]
            caption = f"{'✓' if right else '✗'} {_shortened(entries[row].landmark)}"
            _show(axis, entries[row], caption, _RIGHT if right else _WRONG)
    return figure


def _show(axis: "Axes", entry: Entry, caption: str, frame: str | None) -> None:
    """Draw one photo centred in a framed square, with its caption below."""
    axis.set(xticks=[], yticks=[], xlim=(0, _SIDE), ylim=(_SIDE, 0), aspect="equal", facecolor=_MAT)
    axis.set_xlabel(caption, fontsize=8, color=frame or _INK, parse_math=False)
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame or _MAT, linewidth=2.5)
    try:
        image = None if entry.photo is None else thumbnail(entry.photo, _SIDE)
    except UserError:
        image = None
    if image is None:
        middle = _SIDE / 2
        axis.text(middle, middle, "no photo", ha="center", va="center", fontsize=8, color=_QUIET)
        return
    left, top = (_SIDE - image.width) / 2, (_SIDE - image.height) / 2
    extent = (left, left + image.width, top + image.height, top)
    axis.imshow(np.asarray(image), extent=extent)
    axis.set(xlim=(0, _SIDE), ylim=(_SIDE, 0))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
