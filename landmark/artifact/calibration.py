"""A calibration and its files: score of a recognition → probability that it is right."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.fitted import META, WEIGHTS, reading_fitted, write_fitted
from landmark.artifact.recognition import Recognition
from landmark.disk.differences import as_recorded, check_same_settings
from landmark.error import UserError


class Calibration:
    """Map scores to confidences, and a wanted precision to a threshold on the score.

    On disk a folder of `weights.safetensors` and `fit.yaml`.

    Args:
        method: `platt`: confidence = 1 / (1 + exp(−(slope · score + intercept))). `isotonic`:
            linear between the points (`scores`, `confidences`), constant beyond them.
        weights: `slope` and `intercept` (1,), or `scores` and `confidences` (P,), ascending; and
            `thresholds` (T,), descending, with the precision to expect of the predictions whose
            score is at least the threshold, `precisions` (T,).
        meta: `settings` of the recognition, and what it was fitted on.

    Example:
        >>> one = np.ones(1)
        >>> calibration = Calibration(
        ...     "platt",
        ...     {"slope": one, "intercept": 0 * one, "thresholds": np.array([2.0, 1.0]),
        ...      "precisions": np.array([0.99, 0.9])},
        ...     {},
        ... )
        >>> calibration(np.array([-np.inf, 0])).tolist(), calibration.threshold(0.9)
        ([0.0, 0.5], 1.0)
    """

    marker: ClassVar[str] = META

    def __init__(
        self,
        method: Literal["platt", "isotonic"],
        weights: dict[str, NDArray[np.float64]],
        meta: dict[str, Any],
    ) -> None:
        self.method = method
        self.weights = weights
        self.meta = as_recorded(meta)

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the confidence of each score, (P,); 0 for -inf."""
        from scipy.special import expit

        scores = np.asarray(scores, np.float64)
        if self.method == "platt":
            slope, intercept = self.weights["slope"][0], self.weights["intercept"][0]
            return expit(slope * scores + intercept)
        confidences = np.interp(scores, self.weights["scores"], self.weights["confidences"])
        return np.where(np.isneginf(scores), 0.0, confidences)

    def threshold(self, precision: float) -> float:
        """Return the score above which the precision to expect is at least `precision`.

        Going down from the highest score, it is the last threshold before the precision falls
        below: lower ones that reach it again by chance are not taken.

        Raises:
            UserError: No threshold reaches it; says the highest precision.
        """
        reaches = self.weights["precisions"] >= precision
        if not reaches.any():
            highest = np.floor(self.weights["precisions"].max(initial=0) * 1e4) / 1e4
            raise UserError(
                f"precision={precision:g} cannot be reached: the calibration, fitted on "
                f"{self.meta.get('queries', 0):,} queries, reaches {highest:g} at most. "
                "Pass a lower precision, or fit on more queries."
            )
        first = int(reaches.argmax())
        length = int(np.argmin(np.append(reaches[first:], False)))
        return float(self.weights["thresholds"][first + length - 1])

    def check_fits(self, settings: dict[str, Any], subject: str | Path) -> None:
        """Check that the scores to calibrate are made as those it was fitted on.

        Args:
            settings: Settings of the recognition.
            subject: Path of the calibration, for the message.

        Raises:
            UserError: A setting differs; names each with both values.
        """
        check_same_settings(
            self.meta.get("settings", {}),
            settings,
            f"calibration={subject} was fitted on a recognition",
            "Recognize with the same settings, or fit again.",
        )

    def summary(self, recognition: Recognition) -> str:
        """Describe the fit to a recognition in one line."""
        right = int(recognition.is_correct.sum())
        text = f"{len(recognition.ids):,} queries, {right:,} recognized"
        for precision in (0.9, 0.95, 0.99):
            if (self.weights["precisions"] >= precision).any():
                text += f"   precision {precision:g}: score >= {self.threshold(precision):.3f}"
        return text

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the folder atomically.

        Raises:
            UserError: `path` already exists, or cannot be written.
        """
        write_fitted(path, self.method, self.weights, self.meta, overwrite)

    @classmethod
    def open(cls, path: str | Path) -> "Calibration":
        """Read a folder that `write` wrote.

        Raises:
            UserError: `path` is not a calibration, or is damaged or of a later version.
        """
        writer = "fit.py fit=calibration"
        with reading_fitted(path, "a calibration", writer) as fitted:
            fitted.check_method(("platt", "isotonic"), "a calibration", writer)
            method: Any = fitted.method
            points = {"platt": ("slope", "intercept"), "isotonic": ("scores", "confidences")}
            _check_weights(fitted.weights, (*points[method], "thresholds", "precisions"))
        return cls(method, fitted.weights, fitted.meta)


def _check_weights(weights: dict[str, NDArray[np.float64]], names: tuple[str, ...]) -> None:
    """Check the arrays of a calibration.

    Raises:
        ValueError: One is missing, empty, not finite, or of another shape than its partner.
    """
    for name in names:
        if name not in weights or weights[name].ndim != 1 or not np.isfinite(weights[name]).all():
            raise ValueError(f"{WEIGHTS}: {name} is missing or not finite")
    pairs = (names[:2], names[2:])
    if any(weights[a].shape != weights[b].shape or not weights[a].size for a, b in pairs):
        raise ValueError(f"{WEIGHTS}: the shapes do not match")
