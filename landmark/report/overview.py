"""What a whole ranking came to: the table of its steps, the histogram, the sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.report.page import Bar, Figure, StepRow

_COLUMNS = {
    "map_at_100": "mAP@100",
    "precision_at_10": "precision@10",
    "top_1": "top-1",
    "easy": "easy mAP",
    "medium": "medium mAP",
    "hard": "hard mAP",
}
_BARS = 10
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class FoundStep:
    """The first results of every query after one step.

    Attributes:
        name: `search` or the re-ranker's name.
        rows: (Q, R) gallery rows, best first; -1 pads.
        scores: (Q, R) their scores.
        precision: (Q,) average precision, NaN where nothing answers; None: not known.
        seconds: what the step took.
        metrics: its figures.
    """

    name: str
    rows: NDArray[np.integer]
    scores: NDArray[np.floating]
    precision: NDArray[np.floating] | None
    seconds: float
    metrics: Mapping[str, float]


def column(key: str) -> str:
    """A figure's name as shown."""
    return _COLUMNS.get(key, key.replace("_", " "))


def step_rows(
    steps: Sequence[FoundStep], settings: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[StepRow]]:
    """Names of the figures, and the table's line of each step.

    Args:
        steps: in order.
        settings: of each step, in the same order.
    """
    keys = list(steps[0].metrics)
    rows, before = [], None
    for step, chosen in zip(steps, settings, strict=True):
        figures = [
            Figure(step.metrics[key], None if before is None else before.metrics[key])
            for key in keys
        ]
        better, worse = changed(before, step)
        shown = flat({key: value for key, value in chosen.items() if key != "step"})
        rows.append(StepRow(step.name, shown, figures, better, worse, step.seconds))
        before = step
    return [column(key) for key in keys], rows


def changed(before: FoundStep | None, after: FoundStep) -> tuple[int | None, int | None]:
    """How many queries' average precision rose and fell; None without a step before or truth."""
    if before is None or before.precision is None or after.precision is None:
        return None, None
    gained = after.precision - before.precision
    return int((gained > _SAME).sum()), int((gained < -_SAME).sum())


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as dotted names and words; what only the program reads is left out."""
    shown: dict[str, str] = {}
    for key, value in settings.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            shown |= {f"{key}.{name}": words for name, words in flat(value).items()}
        else:
            shown[str(key)] = "none" if value is None else _words(value)
    return shown


def told_apart(
    stores: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """What all stores say alike (setting → words), and what else each says (name → the same)."""
    shown = {name: flat(settings) for name, settings in stores.items()}
    first, *others = shown.values()
    alike = {key: words for key, words in first.items() if all(o.get(key) == words for o in others)}
    own = {
        name: {key: words for key, words in settings.items() if key not in alike}
        for name, settings in shown.items()
    }
    return alike, own


def _words(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        # A list in a list is a size: 448 × 384.
        return ", ".join(
            " × ".join(map(_words, one)) if isinstance(one, list | tuple) else _words(one)
            for one in value
        )
    return str(value)


def histogram(precision: NDArray[np.floating] | None) -> list[Bar]:
    """Ten bars of the average precisions (Q,); none where they are not known."""
    if precision is None or np.isnan(precision).all():
        return []
    counts, edges = np.histogram(precision[~np.isnan(precision)], bins=_BARS, range=(0, 1))
    return [
        Bar(float(low), float(high), int(count), float(100 * count / counts.max()))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def headline(steps: Sequence[FoundStep], key: str) -> str:
    """One sentence on what the chain came to.

    Args:
        steps: in order.
        key: the figure that matters most; "" where nothing is known of the right answers.
    """
    first, last = steps[0], steps[-1]
    if not key:
        return "The right answers are not known here, so nothing was scored."
    name, after = column(key), last.metrics[key]
    if len(steps) == 1:
        return f"The {name} is {after:.4f}."
    before = first.metrics[key]
    figure = Figure(after, before)
    if figure.trend == "same":
        return f"The {name} is {after:.4f}; re-ranking did not change it."
    verb = "raised" if figure.trend == "better" else "lowered"
    sentence = f"Re-ranking {verb} the {name} from {before:.4f} to {after:.4f}"
    better, worse = changed(first, last)
    gained = f"{better:,} {'query is' if better == 1 else 'queries are'} better"
    return f"{sentence}: {gained} than after the search, {worse:,} worse."
