"""A search and the re-rankers after it, step by step, timed and measured."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from landmark.rerank.retrieval import Retrieval
from landmark.rerank.truth import Truth

Reranker = Callable[[Retrieval], Retrieval]


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of a chain gave.

    Attributes:
        name: `search` or the re-ranker's name.
        retrieval: Its result.
        seconds: What it took, without the measuring.
        metrics: Its figures; empty where the truth is not known.
    """

    name: str
    retrieval: Retrieval
    seconds: float
    metrics: dict[str, float]

    def line(self, before: "Step | None", labels: Mapping[str, str]) -> str:
        """One line to print: name, figures before → after, seconds.

        Args:
            before: The step before; none: only the figures after.
            labels: The figures to show, key → words.
        """
        words = [f"{self.name:<12}"]
        for key, label in labels.items():
            change = f"{before.metrics[key]:.4f} → " if before else ""
            words.append(f"{label} {change}{self.metrics[key]:.4f}")
        return "   ".join([*words, f"{self.seconds:.1f} s"])


def steps(
    search: Callable[[], Retrieval], rerankers: Mapping[str, Reranker], truth: Truth | None
) -> Iterator[Step]:
    """Search, then apply each re-ranker to what the one before it gave.

    Args:
        search: Gives the first retrieval.
        rerankers: By name, in order.
        truth: Measures each step; none: no figures.
    """
    started = time.perf_counter()
    retrieval = search()
    yield _step("search", retrieval, started, truth)
    for name, reranker in rerankers.items():
        started = time.perf_counter()
        retrieval = reranker(retrieval)
        yield _step(name, retrieval, started, truth)


def _step(name: str, retrieval: Retrieval, started: float, truth: Truth | None) -> Step:
    seconds = time.perf_counter() - started
    return Step(name, retrieval, seconds, truth.measure(retrieval.rows) if truth else {})
