"""The upper half of a ranking's page: headline, table of steps, histogram, stores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.report.page import Bar, Figure, StepRow
from landmark.rerank.chain import Step

_COLUMNS = {
    "map": "mAP",
    "top_1": "top-1",
    "easy": "easy mAP",
    "medium": "medium mAP",
    "hard": "hard mAP",
}
_BARS = 10
_EQUAL_WITHIN = 1e-9


def column_name(metric: str) -> str:
    """Return a metric's name as displayed."""
    name, at, k = metric.partition("_at_")
    return _COLUMNS.get(name, name.replace("_", " ")) + (f"@{k}" if at else "")


def headline(steps: Sequence[Step], metric: str | None) -> str:
    """Summarise the outcome of a chain in one sentence.

    Args:
        steps: Steps of the chain, in order.
        metric: The main mean average precision. None without ground truth.
    """
    first, last = steps[0], steps[-1]
    if metric is None:
        return "No ground truth is available, so no metrics were computed."
    name, after = column_name(metric), last.metrics[metric]
    if len(steps) == 1:
        return f"The {name} is {after:.4f}."
    before = first.metrics[metric]
    trend = Figure(after, before).trend
    if trend == "same":
        return f"The {name} is {after:.4f}; re-ranking did not change it."
    verb = "raised" if trend == "better" else "lowered"
    better, worse = changed_queries(first, last, metric)
    return (
        f"Re-ranking {verb} the {name} from {before:.4f} to {after:.4f}: "
        f"{better:,} {'query is' if better == 1 else 'queries are'} better than after the search, "
        f"{worse:,} worse."
    )


def step_rows(
    steps: Sequence[Step], settings: Sequence[Mapping[str, Any]], metric: str | None
) -> list[StepRow]:
    """Make the table row of each step.

    Args:
        steps: Steps of the chain, in order.
        settings: Settings of each step, in the same order.
        metric: As in `headline`.
    """
    rows: list[StepRow] = []
    for previous, step, own in zip([None, *steps[:-1]], steps, settings, strict=True):
        before = {} if previous is None else previous.metrics
        figures = [Figure(value, before.get(key)) for key, value in step.metrics.items()]
        shown = flat_settings({key: value for key, value in own.items() if key != "step"})
        better, worse = changed_queries(previous, step, metric)
        rows.append(StepRow(step.name, shown, figures, better, worse, step.seconds))
    return rows


def changed_queries(
    before: Step | None, after: Step, metric: str | None
) -> tuple[int | None, int | None]:
    """Count the queries whose average precision rose and fell; None if it is unknown."""
    if before is None or metric is None:
        return None, None
    gained = after.precisions[metric] - before.precisions[metric]
    return int((gained > _EQUAL_WITHIN).sum()), int((gained < -_EQUAL_WITHIN).sum())


def histogram(precisions: NDArray[np.floating] | None) -> list[Bar]:
    """Make ten bars of average precisions (Q,); an empty list if they are unknown."""
    if precisions is None or np.isnan(precisions).all():
        return []
    counts, edges = np.histogram(precisions[~np.isnan(precisions)], bins=_BARS, range=(0, 1))
    return [
        Bar(float(low), float(high), int(count), float(100 * count / counts.max()))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def split_settings(
    stores: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Split store settings into shared settings and the rest of each store, as displayed."""
    shown = {name: flat_settings(settings) for name, settings in stores.items()}
    first, *others = shown.values()
    shared = {key: text for key, text in first.items() if all(o.get(key) == text for o in others)}
    own = {
        name: {key: text for key, text in settings.items() if key not in shared}
        for name, settings in shown.items()
    }
    return shared, own


def flat_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested settings to dotted key → text, without keys such as `_target_`."""
    shown: dict[str, str] = {}
    for key, value in settings.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            shown |= {f"{key}.{name}": text for name, text in flat_settings(value).items()}
        else:
            shown[str(key)] = "none" if value is None else _text(value)
    return shown


def _text(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        # A nested list is a size: 448 × 384.
        return ", ".join(
            " × ".join(map(_text, item)) if isinstance(item, list | tuple) else _text(item)
            for item in value
        )
    return str(value)
