"""The upper half of a ranking's page: headline, table of steps, histogram, stores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.report.page import Bar, Figure, StepRow
from landmark.rerank.chain import Step

_COLUMNS = {
    "map_at_100": "mAP@100",
    "precision_at_10": "precision@10",
    "top_1": "top-1",
    "easy": "easy mAP",
    "medium": "medium mAP",
    "hard": "hard mAP",
}
_BARS = 10
_EQUAL_WITHIN = 1e-9


def column_name(metric: str) -> str:
    """Return a metric's name as displayed."""
    return _COLUMNS.get(metric, metric.replace("_", " "))


def headline(steps: Sequence[Step], metric: str | None) -> str:
    """Write one sentence on the outcome of a chain.

    Args:
        steps: In order.
        metric: The mean average precision that matters most; None without ground truth.
    """
    first, last = steps[0], steps[-1]
    if metric is None:
        return "The right answers are not known here, so nothing was scored."
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
    """Make the table's row of each step.

    Args:
        steps: In order.
        settings: Of each step, in the same order.
        metric: As in `headline`.
    """
    rows: list[StepRow] = []
    for before, step, chosen in zip([None, *steps[:-1]], steps, settings, strict=True):
        earlier = {} if before is None else before.metrics
        figures = [Figure(value, earlier.get(key)) for key, value in step.metrics.items()]
        shown = flat_settings({key: value for key, value in chosen.items() if key != "step"})
        better, worse = changed_queries(before, step, metric)
        rows.append(StepRow(step.name, shown, figures, better, worse, step.seconds))
    return rows


def changed_queries(
    before: Step | None, after: Step, metric: str | None
) -> tuple[int | None, int | None]:
    """Count the queries whose average precision rose and fell; None where it is not known."""
    if before is None or metric is None:
        return None, None
    gained = after.precisions[metric] - before.precisions[metric]
    return int((gained > _EQUAL_WITHIN).sum()), int((gained < -_EQUAL_WITHIN).sum())


def histogram(precisions: NDArray[np.floating] | None) -> list[Bar]:
    """Make ten bars of average precisions (Q,); none if they are not known."""
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
    """Split store settings into shared ones and those of each store, as displayed."""
    shown = {name: flat_settings(settings) for name, settings in stores.items()}
    first, *others = shown.values()
    shared = {key: text for key, text in first.items() if all(o.get(key) == text for o in others)}
    own = {
        name: {key: text for key, text in settings.items() if key not in shared}
        for name, settings in shown.items()
    }
    return shared, own


def flat_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested settings to dotted names and text, without keys such as `_target_`."""
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
        # A list within a list is a size: 448 × 384.
        return ", ".join(
            " × ".join(map(_text, one)) if isinstance(one, list | tuple) else _text(one)
            for one in value
        )
    return str(value)
