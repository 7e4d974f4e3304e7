"""Run a search and a chain of re-rankers; time and evaluate each step."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from landmark.metric.bootstrap import Interval, mean_interval
from landmark.rerank.memory import PeakMemory
from landmark.rerank.retrieval import Retrieval
from landmark.score.evaluation import Evaluation, GroundTruth

Reranker = Callable[[Retrieval], Retrieval]
INTERVAL: dict[str, Any] = {"confidence": 0.95, "resamples": 1000, "seed": 0}


@dataclass(frozen=True, eq=False)
class Step:
    """The result of one step of a chain. It references no retrieval, so indexes can be freed.

    Attributes:
        name: `search` or the re-ranker's name.
        rows: (Q, K) gallery rows, best first; -1 pads.
        scores: (Q, K) scores of the rows.
        seconds: Duration, without the evaluation.
        peak_bytes: Peak memory above the memory at the start of the step.
        metrics: Name → value; empty without ground truth.
        precisions: Name of a mean average precision or recall → the value of each query, (Q,); NaN
            for a query that does not count.
        changes: Name of such a metric → its change from the previous step, with the 95 %
            bootstrap interval over the queries; empty for the first step.

    Example:
        >>> step = Step("search", np.array([[3, 1]]), np.array([[0.9, 0.7]]), 2.5, 2**30)
        >>> step.first(1).rows.tolist()
        [[3]]
    """

    name: str
    rows: np.ndarray
    scores: np.ndarray
    seconds: float
    peak_bytes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    precisions: Mapping[str, np.ndarray] = field(default_factory=dict)
    changes: Mapping[str, Interval] = field(default_factory=dict)

    def summary(self, labels: Mapping[str, str]) -> str:
        """Return one line to print: name, metrics before → after (change), seconds, memory.

        Args:
            labels: Metrics to show, key → label.

        Example:
            >>> rows, scores = np.array([[3]]), np.array([[0.9]])
            >>> step = Step("search", rows, scores, 2.5, 2**30, {"top_1": 0.5})
            >>> step.summary({"top_1": "top-1"})
            'search             top-1 0.5000   2.5 s   1.00 GiB'
        """
        parts = [f"{self.name:<16}"]
        for key, label in labels.items():
            after = self.metrics[key]
            if key in self.changes:
                change, low, high = self.changes[key]
                parts.append(
                    f"{label} {after - change:.4f} → {after:.4f} "
                    f"({change:+.4f}, {low:+.4f} … {high:+.4f})"
                )
            else:
                parts.append(f"{label} {after:.4f}")
        return "   ".join([*parts, f"{self.seconds:.1f} s", f"{self.peak_bytes / 2**30:.2f} GiB"])

    def record(self) -> dict[str, Any]:
        """Return the step's entry in metrics.json."""
        changes = {key: change._asdict() for key, change in self.changes.items()}
        return {
            "step": self.name,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            **self.metrics,
            **({"change": changes} if changes else {}),
        }

    def first(self, results: int) -> "Step":
        """Return the step with a copy of only the first results, so that the rest can be freed."""
        return replace(
            self, rows=self.rows[:, :results].copy(), scores=self.scores[:, :results].copy()
        )


def run_chain(
    search: Callable[[], Retrieval], rerankers: Mapping[str, Reranker], truth: GroundTruth | None
) -> Iterator[Step]:
    """Search, apply each re-ranker to the result of the previous step, and yield each step.

    Args:
        search: Returns the initial retrieval.
        rerankers: Name → re-ranker, in order.
        truth: Ground truth that evaluates each step. None means no metrics.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.eye(2, dtype=np.float32)
        >>> search = lambda: Retrieval.from_search(photos, photos, k=2, search=Flat())
        >>> [step.name for step in run_chain(search, {"same": lambda retrieval: retrieval}, None)]
        ['search', 'same']
    """
    keep_earlier = any(getattr(reranker, "needs_earlier", False) for reranker in rerankers.values())
    step, retrieval = _run("search", search, truth, None)
    yield step
    for name, reranker in rerankers.items():
        if keep_earlier:
            retrieval = retrieval.remembered(step.name)
        step, retrieval = _run(name, lambda: reranker(retrieval), truth, step)  # noqa: B023 - now
        yield step


def _run(
    name: str, work: Callable[[], Retrieval], truth: GroundTruth | None, previous: Step | None
) -> tuple[Step, Retrieval]:
    with PeakMemory() as memory:
        started = time.perf_counter()
        retrieval = work()
        seconds = time.perf_counter() - started
    evaluation = truth.evaluate(retrieval.rows) if truth else Evaluation({}, {})
    changes = {
        key: mean_interval(precisions - previous.precisions[key], **INTERVAL)
        for key, precisions in evaluation.precisions.items()
        if previous
    }
    step = Step(name, retrieval.rows, retrieval.scores, seconds, memory.bytes, *evaluation, changes)
    return step, retrieval
