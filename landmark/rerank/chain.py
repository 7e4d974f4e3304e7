"""A search and the re-rankers after it, step by step, timed and measured."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """What one step of a chain gave.

    Attributes:
        name: `search` or the re-ranker's name.
        retrieval: Its result.
        seconds: What it took, without the measuring.
        peak_bytes: Memory that it took at its peak, over what was held when it began.
        metrics: Its figures; empty where the truth is not known.
        precisions: Name of a mean average precision → that of each query, (Q,).
        changes: Name of a mean average precision → its change from the step before, with the 95 %
            bootstrap interval over the queries; empty for the first.
    """

    name: str
    retrieval: Retrieval
    seconds: float
    peak_bytes: int
    metrics: dict[str, float] = field(default_factory=dict)
    precisions: dict[str, np.ndarray] = field(default_factory=dict)
    changes: dict[str, Interval] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Gallery rows, best first, (Q, K); -1 pads."""
        return self.retrieval.rows

    @property
    def scores(self) -> np.ndarray:
        """Their scores, (Q, K)."""
        return self.retrieval.scores

    def line(self, labels: Mapping[str, str]) -> str:
        """One line to print: name, figures before → after with the change, seconds, memory.

        Args:
            labels: The figures to show, key → words.
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
        """The figures as they are written down."""
        changes = {key: change._asdict() for key, change in self.changes.items()}
        return {
            "step": self.name,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            **self.metrics,
            **({"change": changes} if changes else {}),
        }


def steps(
    search: Callable[[], Retrieval], rerankers: Mapping[str, Reranker], truth: GroundTruth | None
) -> Iterator[Step]:
    """Search, then apply each re-ranker to what the one before it gave.

    Args:
        search: Gives the first retrieval.
        rerankers: By name, in order.
        truth: Measures each step; none: no figures.
    """
    remember = any(getattr(reranker, "needs_earlier", False) for reranker in rerankers.values())
    step = _step("search", search, truth, None)
    yield step
    for name, reranker in rerankers.items():
        given = step.retrieval.remembered(step.name) if remember else step.retrieval
        step = _step(name, lambda: reranker(given), truth, step)  # noqa: B023 - called at once
        yield step


def _step(
    name: str, work: Callable[[], Retrieval], truth: GroundTruth | None, before: Step | None
) -> Step:
    with PeakMemory() as memory:
        started = time.perf_counter()
        retrieval = work()
        seconds = time.perf_counter() - started
    judged = truth.evaluate(retrieval.rows) if truth else Evaluation({}, {})
    changes = {
        key: mean_interval(precisions - before.precisions[key], **INTERVAL)
        for key, precisions in judged.precisions.items()
        if before
    }
    return Step(name, retrieval, seconds, memory.bytes, *judged, changes)
