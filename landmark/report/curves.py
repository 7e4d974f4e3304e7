"""Plot a run's metrics.csv: loss, validation metrics and learning rate over the steps."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from landmark.error import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2f5d8c", "#c2412d", "#1b7f5a", "#8a6a00", "#6b4c9a")
_QUIET = "#5c636b"
_SMOOTHED_FROM = 60


def curves_figure(metrics: str | Path) -> "Figure | None":
    """Make the matplotlib figure of a run, without pyplot and its global state.

    Args:
        metrics: The run's `metrics.csv`: `step`, `train/loss`, and if logged `val/map_at_<k>`,
            `val/top_1`, `lr-…`.

    Returns:
        None if the file is missing, or contains none of these metrics.

    Raises:
        UserError: The file is not a table of metrics.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    table = _read(Path(metrics))
    panels = _panels(table)
    if not panels:
        return None
    figure = Figure(figsize=(8, 0.6 + 2.1 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (title, columns) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, table, title, columns)
    axes[-1].set_xlabel("optimizer step", color=_QUIET)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark_epochs(axes[0], table)
    return figure


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame({"step": []})
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a table of metrics ({error}).") from error
    if "step" not in table:
        raise UserError(f"{path} is not a table of metrics: the column step is missing.")
    return table


def _panels(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return title → columns with values, in drawing order."""
    filled = [str(name) for name in table.columns if table[name].notna().any()]
    panels = {
        "loss": [name for name in filled if name == "train/loss"],
        "validation": [name for name in filled if name.startswith(("val/map_at_", "val/top_1"))],
        "learning rate": [name for name in filled if name.startswith("lr-")],
    }
    return {title: columns for title, columns in panels.items() if columns}


def _draw_panel(axis: "Axes", table: pd.DataFrame, title: str, columns: list[str]) -> None:
    lines: dict[tuple[tuple[float, ...], ...], list[str]] = {}
    for column in columns:
        # Equal series share one line with several names.
        lines.setdefault(tuple(map(tuple, _points(table, column))), []).append(_name(column))
    for colour, ((steps, values), names) in zip(_COLOURS * len(lines), lines.items(), strict=False):
        name = ", ".join(names)
        if name.startswith("mAP@"):
            best = int(np.argmax(values))
            name += f", best {values[best]:.4f} at step {steps[best]:.0f}"
        _draw(axis, np.array(steps), np.array(values), colour, name, title)
    axis.set_ylabel(title, color=_QUIET)
    axis.grid(axis="y", color="#e2ded8", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#c9c4bd")
    axis.tick_params(colors=_QUIET, labelsize=9)
    axis.margins(x=0.02, y=0.1)
    if title != "loss":
        axis.legend(frameon=False, fontsize=9, labelcolor=_QUIET)


def _points(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return the steps and values of a column, (2, P)."""
    points = table.loc[table[column].notna(), ["step", column]]
    # A resumed run logs the steps after its checkpoint again: keep the last row.
    points = points.drop_duplicates("step", keep="last").sort_values("step")
    return points.to_numpy(np.float64).T


def _draw(
    axis: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, name: str, title: str
) -> None:
    is_short = len(steps) < _SMOOTHED_FROM
    if title == "loss" and not is_short:
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        window = pd.Series(values).rolling(len(values) // 20, center=True, min_periods=1)
        values = window.mean().to_numpy()
    marker = "o" if is_short and title != "learning rate" else None
    axis.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)


def _name(column: str) -> str:
    if column.startswith("val/map_at_"):
        return f"mAP@{column.removeprefix('val/map_at_')}"
    if column.startswith("lr-"):
        return column.partition("/")[2] or column.removeprefix("lr-")
    return "top-1" if column == "val/top_1" else column


def _mark_epochs(axis: "Axes", table: pd.DataFrame) -> None:
    """Number the epochs along the top; validation rows mark the step at which an epoch ended."""
    if "epoch" not in table:
        return
    ends = table.dropna(subset="epoch").groupby("epoch")["step"].max()
    if len(ends) < 2:
        return
    shown = ends.iloc[:: max(1, len(ends) // 10)]
    top = axis.secondary_xaxis("top")
    top.set_xticks(shown.to_numpy(), [f"{int(epoch) + 1}" for epoch in shown.index])
    top.set_xlabel("epoch", color=_QUIET)
    top.tick_params(colors=_QUIET, labelsize=9, length=2)
    top.spines["top"].set_visible(False)
