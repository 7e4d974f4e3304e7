"""report.html beside a ranking: its queries and what each step found, the worst first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.assembly import Side, assemble
from landmark.report.choice import choose
from landmark.report.overview import FoundStep
from landmark.report.page import render

RESULTS = 10


class Judge(Protocol):
    """What is known of the right answers.

    Attributes:
        headline: the figure that matters most, a mean average precision.
    """

    headline: str

    def kinds(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(q,) queries and (q, K) rows → (q, K) `right`, `easy`, `hard`, `wrong`, `junk`, …."""


@dataclass
class RankingReport:
    """Takes each step of a chain as it is found, then writes the page.

    Of every query only the first results and its average precision are kept, and only photos
    that are shown are read.

    Args:
        judge: what is known of the right answers; none: results are framed as unknown, and the
            queries that are the least sure come first.
        results: places shown for each query.
    """

    judge: Judge | None = None
    results: int = RESULTS
    _steps: list[FoundStep] = field(default_factory=list, init=False)

    def add(
        self,
        name: str,
        rows: NDArray[np.integer],
        scores: NDArray[np.floating],
        seconds: float,
        metrics: Mapping[str, float],
        precision: NDArray[np.floating] | None = None,
    ) -> None:
        """Takes what one step found.

        Args:
            name: `search` or the re-ranker's name.
            rows: (Q, K) gallery rows, best first; -1 pads.
            scores: (Q, K) their scores.
            seconds: what the step took.
            metrics: its figures.
            precision: (Q,) the average precisions that the headline figure is the mean of, NaN
                for a query that nothing answers; None: not known.
        """
        first = slice(None), slice(self.results)
        self._steps.append(
            # Copies: a slice would keep all of the step's rows in memory.
            FoundStep(name, rows[first].copy(), scores[first].copy(), precision, seconds, metrics)
        )

    def write(
        self,
        path: str | Path,
        query: Side,
        gallery: Side,
        meta: Mapping[str, Any],
        nearest_train_accuracy: float | None = None,
        worst: int = 30,
        best: int = 5,
    ) -> None:
        """Writes the page, whole or not at all.

        Args:
            path: the HTML file.
            query: the queries.
            gallery: the photos searched.
            meta: what the ranking records of itself: `k`, `steps` (the settings of each) and
                `stores` (what each says of itself).
            nearest_train_accuracy: share of the queries whose nearest train photo shows their
                landmark, where it is known.
            worst: queries shown, the lowest average precision first.
            best: queries shown after them, the highest first.

        Raises:
            UserError: the file cannot be written.
        """
        last = self._steps[-1]
        choice = choose(last.precision, last.scores, worst, best)
        kinds = None if self.judge is None else self.judge.kinds
        headline = "" if self.judge is None else self.judge.headline
        title = "/".join(Path(path).absolute().parent.parts[-2:])
        page = assemble(
            title,
            self._steps,
            choice,
            query,
            gallery,
            kinds,
            headline,
            meta,
            nearest_train_accuracy,
        )
        try:
            with atomic_file(path) as temporary:
                temporary.write_text(render(page), encoding="utf-8")
        except OSError as error:  # a full disk says so without a file's name
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
