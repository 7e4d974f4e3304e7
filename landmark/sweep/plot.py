"""Plot the jobs of a sweep: one line per setting, one dot per seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from landmark.artifact.picture import write_png

_COLOUR = "#2f5d8c"
_QUIET = "#5c636b"
_LONGEST_NAME = 70


def draw_sweep(points: Mapping[str, Sequence[float]], metric: str, output: str | Path) -> Path:
    """Draw `sweep.png`: the best setting on top, with mean and deviation beside its dots.

    Args:
        points: Setting → metric of each of its jobs.
        metric: Name of the metric.
        output: PNG file to write.

    Returns:
        The file written.

    Raises:
        UserError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    names = sorted(points, key=lambda name: fmean(points[name]))
    figure = Figure(figsize=(8, 1.1 + 0.36 * len(names)), layout="constrained")
    axis = figure.subplots()
    for line, name in enumerate(names):
        values = points[name]
        mean = fmean(values)
        deviation = stdev(values) if len(values) > 1 else 0.0
        axis.plot(values, [line] * len(values), "o", color=_COLOUR, alpha=0.45, markersize=5)
        text = f"{mean:.4f}"
        if len(values) > 1:
            axis.errorbar(
                mean, line, xerr=deviation, color=_COLOUR, capsize=4, marker="|", markersize=12
            )
            text += f" ± {deviation:.4f}"
        axis.text(1.01, line, text, transform=axis.get_yaxis_transform(), va="center", size=9)
    short = [
        name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}" for name in names
    ]
    axis.set_yticks(range(len(names)), short)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlabel(f"mAP@{metric.removeprefix('map_at_')}" if "map_at_" in metric else metric)
    axis.grid(axis="x", color="#e2ded8", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(colors=_QUIET, labelsize=9, left=False)
    return write_png(figure, output, dpi=150)
