"""Plot the precision and recall of a recognition over all thresholds."""

from typing import TYPE_CHECKING

from landmark.artifact.recognition import Recognition
from landmark.metric.recognition import threshold_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _MARK, _QUIET = "#2f5d8c", "#c2412d", "#5c636b"


def precision_recall_figure(recognition: Recognition, threshold: float | None = None) -> "Figure":
    """Make the matplotlib figure of predictions whose truth is known.

    Args:
        recognition: All predictions.
        threshold: Score below which predictions are left out, to mark. Defaults to none.
    """
    from matplotlib.figure import Figure

    predicted = recognition.is_predicted
    scores = recognition.scores[predicted]
    curve = threshold_curve(scores, recognition.is_correct[predicted])
    recalls = curve.recalls(recognition.positives)
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.step(recalls, curve.precisions, where="pre", color=_LINE, linewidth=1.6)
    if threshold is not None and (kept := int((curve.thresholds >= threshold).sum())):
        recall, precision = float(recalls[kept - 1]), float(curve.precisions[kept - 1])
        axis.plot([recall], [precision], "o", color=_MARK, markersize=6)
        label = f"precision {precision:.3f}\nrecall {recall:.3f}"
        axis.annotate(
            label,
            (recall, precision),
            (-8, -28),
            textcoords="offset points",
            ha="right",
            color=_MARK,
            fontsize=9,
        )
    axis.set(xlim=(0, 1.01), ylim=(0, 1.01))
    axis.set_xlabel(
        "recall: share of the queries with a landmark that are recognized", color=_QUIET
    )
    axis.set_ylabel("precision of the predictions", color=_QUIET)
    axis.grid(color="#e2ded8", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#c9c4bd")
    axis.tick_params(colors=_QUIET, labelsize=9)
    return figure
