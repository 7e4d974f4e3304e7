"""A search and the re-rankers after it, step by step, timed and evaluated."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from landmark.metric.bootstrap import Interval, mean_interval
from landmark.rerank.memory import PeakMemory
from landmark.rerank.retrieval import Retrieval
from landmark.score.ground_truth import Evaluation, GroundTruth

Reranker = Callable[[Retrieval], Retrieval]
INTERVAL: dict[str, Any] = {"confidence": 0.95, "resamples": 1000, "seed": 0}


@dataclass(frozen=True, eq=False)
class Step:
    """The result of one step of a chain. It keeps no retrieval, and so no index, alive.

    Attributes:
        name: `search` or the re-ranker's name.
        rows: (Q, K) gallery rows, best first; -1 pads.
        scores: (Q, K) their scores.
        seconds: Duration, without the evaluation.
        peak_bytes: Memory at its peak, over what was held when it began.
        metrics: Its metrics; empty where no ground truth is known.
        precisions: Name of a mean average precision → that of each query, (Q,), NaN for a query
            without an answer.
        changes: Name of a mean average precision → its change from the previous step, with the 95 %
            bootstrap interval over the queries; empty for the first step.
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
        """One line to print: name, metrics before → after with the change, seconds, memory.

        Args:
            labels: The metrics to show, key → words.

        Example:
            >>> rows, scores = np.array([[3]]), np.array([[0.9]])
            >>> step = Step("search", rows, scores, 2.5, 2**30, {"top_1": 0.5})
            >>> step.summary({"top_1": "top-1"})
            'search             top-1 0.5000   2.5 s   1.00 GiB'
        """
        words = [f"{self.name:<16}"]
        for key, label in labels.items():
            after = self.metrics[key]
            if key in self.changes:
                change, low, high = self.changes[key]
                words.append(
                    f"{label} {after - change:.4f} → {after:.4f} "
                    f"({change:+.4f}, {low:+.4f} … {high:+.4f})"
                )
            else:
                words.append(f"{label} {after:.4f}")
        return "   ".join([*words, f"{self.seconds:.1f} s", f"{self.peak_bytes / 2**30:.2f} GiB"])

    def record(self) -> dict[str, Any]:
        """The metrics as they are written to metrics.json."""
        changes = {key: change._asdict() for key, change in self.changes.items()}
        return {
            "step": self.name,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            **self.metrics,
            **({"change": changes} if changes else {}),
        }

    def first(self, results: int) -> "Step":
        """The step with a copy of the first results only, so that the others can be freed."""
        return replace(
            self, rows=self.rows[:, :results].copy(), scores=self.scores[:, :results].copy()
        )


def run_chain(
    search: Callable[[], Retrieval], rerankers: Mapping[str, Reranker], truth: GroundTruth | None
) -> Iterator[Step]:
    """Search, then apply each re-ranker to the result of the previous step.

    Args:
        search: Returns the first retrieval.
        rerankers: By name, in order.
        truth: Evaluates each step; None: no metrics.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.eye(2, dtype=np.float32)
        >>> search = lambda: Retrieval.from_search(photos, photos, k=2, search=Flat())
        >>> [step.name for step in run_chain(search, {"same": lambda retrieval: retrieval}, None)]
        ['search', 'same']
    """
    remember = any(getattr(reranker, "needs_earlier", False) for reranker in rerankers.values())
    step, retrieval = _run("search", search, truth, None)
    yield step
    for name, reranker in rerankers.items():
        if remember:
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
