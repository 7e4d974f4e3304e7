"""The hardest queries of a validation as a picture, each with the first photos found for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landmark.error import UserError
from landmark.metric.gldv2 import average_precision_at_k
from landmark.metric.relevance import hits_by_label
from landmark.report.choice import choose
from landmark.report.photos import Entry, Photo
from landmark.report.picture import write_png
from landmark.report.thumbnail import thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#1b7f5a", "#c2412d"
_INK, _QUIET, _MAT = "#1f2328", "#5c636b", "#efece7"
_SIDE = 224
_LONGEST_NAME = 22

Entries = Callable[[NDArray[np.integer]], Sequence[Entry]]


@dataclass(frozen=True, eq=False)
class Validation:
    """What a validation found.

    Attributes:
        rows: (Q, K) gallery rows found for each query, best first; -1 pads.
        query_labels: (Q,) landmarks as numbers.
        gallery_labels: (N,) likewise.
        query: rows of queries → what is known of each, such as `table_entries(table)`.
        gallery: the same of the gallery.
    """

    rows: NDArray[np.integer]
    query_labels: NDArray[np.integer]
    gallery_labels: NDArray[np.integer]
    query: Entries
    gallery: Entries


def draw_hardest(
    output: str | Path, validation: Validation, count: int = 8, results: int = 5, k: int = 100
) -> Path | None:
    """Draws `hardest.png` of a validation: a row each query, lowest average precision first.

    Args:
        output: the PNG, written whole or not at all.
        validation: what was found.
        count: queries shown.
        results: photos shown for each.
        k: results that count for the average precision.

    Returns:
        The PNG; None where no query has an answer in the gallery.
    """
    figure = hardest_figure(validation, count, results, k)
    return None if figure is None else write_png(figure, output, dpi=100)


def hardest_figure(
    validation: Validation, count: int = 8, results: int = 5, k: int = 100
) -> "Figure | None":
    """The same as a matplotlib figure, of no window and no global state."""
    from matplotlib.figure import Figure

    rows, query_labels = validation.rows, validation.query_labels
    hits, relevant = hits_by_label(rows, query_labels, validation.gallery_labels)
    precision = average_precision_at_k(hits, relevant, k)
    if np.isnan(precision).all():
        return None
    chosen = choose(precision, np.zeros(rows.shape), worst=count, best=0).worst
    shown = np.unique(rows[chosen, :results])
    shown = shown[shown >= 0]
    known = dict(zip(shown.tolist(), validation.gallery(shown), strict=True))

    figure = Figure(figsize=(1.6 * (results + 1), 1.9 * len(chosen) + 0.3), layout="constrained")
    axes = figure.subplots(len(chosen), results + 1, squeeze=False)
    for place, axis in enumerate(axes[0]):
        axis.set_title("query" if place == 0 else str(place), fontsize=9, color=_QUIET)
    for line, one, asked in zip(axes, chosen.tolist(), validation.query(chosen), strict=True):
        caption = f"{_short(asked.landmark)}\naverage precision {precision[one]:.3f}"
        _show(line[0], asked, caption, None)
        for axis in line[1 + len(rows[one, :results]) :]:
            axis.set_axis_off()
        for axis, row in zip(line[1:], rows[one, :results].tolist(), strict=False):
            if row < 0:
                axis.set_axis_off()
                continue
            right = query_labels[one] == validation.gallery_labels[row]
            caption = f"{'✓' if right else '✗'} {_short(known[row].landmark)}"
            _show(axis, known[row], caption, _RIGHT if right else _WRONG)
    return figure


def _show(axis: "Axes", entry: Entry, caption: str, frame: str | None) -> None:
    """One photo in the middle of a square, framed, with its caption below."""
    axis.set(xticks=[], yticks=[], xlim=(0, _SIDE), ylim=(_SIDE, 0), aspect="equal", facecolor=_MAT)
    axis.set_xlabel(caption, fontsize=8, color=frame or _INK, parse_math=False)
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame or _MAT, linewidth=2.5)
    image = None if entry.photo is None else _thumbnail(entry.photo)
    if image is None:
        middle = _SIDE / 2
        axis.text(middle, middle, "no photo", ha="center", va="center", fontsize=8, color=_QUIET)
        return
    left, top = (_SIDE - image.width) / 2, (_SIDE - image.height) / 2
    extent = (left, left + image.width, top + image.height, top)
    axis.imshow(np.asarray(image), extent=extent)
    axis.set(xlim=(0, _SIDE), ylim=(_SIDE, 0))


def _thumbnail(photo: Photo) -> Image.Image | None:
    try:
        return thumbnail(photo, _SIDE)
    except UserError:
        return None


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
