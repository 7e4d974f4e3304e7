"""What a ground truth computes of rankings: metrics at any k, and values of each query."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from landmark.metric import gldv2
from landmark.metric.recall import recall_at_k

_DEFAULT_K = 100


class Evaluation(NamedTuple):
    """The metrics of a ranking.

    Attributes:
        metrics: Name → value over all queries.
        precisions: Name of each mean average precision and recall in `metrics` → the value of each
            query, (Q,); NaN for a query that does not count, such as one without positives.
    """

    metrics: dict[str, float]
    precisions: dict[str, np.ndarray]


class GroundTruth(ABC):
    """The relevant photos of Q queries in a gallery of N photos.

    Attributes:
        labels: Metrics to show, name → label; those of `Evaluation.precisions`.
        headline: Name of the main metric, a mean average precision.
        distractors: Number of gallery photos without a known landmark, or in no list of the ground
            truth.
    """

    labels: Mapping[str, str]
    headline: str
    distractors: int

    @abstractmethod
    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute the metrics of rankings (Q, K) of gallery rows; -1 pads."""

    @abstractmethod
    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the relevance of each result to its query.

        Args:
            queries: (q,) rows of the query store.
            rows: (q, K) gallery rows ranked for these queries; -1 pads.

        Returns:
            (q, K) labels; "" at the pads.
        """


@dataclass(frozen=True)
class Cutoffs:
    """The numbers of results that count in the metrics of a ranking.

    Args:
        map_at: k of each mean average precision, the main one first. Defaults to 100.
        recall_at: k of each recall, the fraction of the queries with a positive among their first k
            results. Defaults to those of the ground truth.

    Example:
        >>> Cutoffs(map_at=(1000,), recall_at=(1, 10)).limited(k=500, gallery=762).labels
        {'map_at_500': 'mAP@500', 'recall_at_1': 'recall@1', 'recall_at_10': 'recall@10'}
    """

    map_at: Sequence[int] = (_DEFAULT_K,)
    recall_at: Sequence[int] = ()

    @classmethod
    def of(
        cls,
        map_at: int | Sequence[int] | None,
        recall_at: int | Sequence[int] | None = None,
        default_recall: Sequence[int] = (),
    ) -> "Cutoffs":
        """Return the cutoffs of settings: one k, a list, or None for the defaults."""
        return cls(_distinct(map_at, (_DEFAULT_K,)), _distinct(recall_at, default_recall))

    @property
    def deepest(self) -> int:
        """The largest k."""
        return max([*self.map_at, *self.recall_at])

    @property
    def labels(self) -> dict[str, str]:
        """Name of each metric → label."""
        return {
            **{f"map_at_{k}": f"mAP@{k}" for k in self.map_at},
            **{f"recall_at_{k}": f"recall@{k}" for k in self.recall_at},
        }

    def limited(self, k: int | None, gallery: int) -> "Cutoffs":
        """Limit each k to the results of rankings that end before the gallery does.

        Args:
            k: Results per query. None means the complete gallery.
            gallery: Number of gallery photos.
        """
        if k is None or k >= gallery:
            return self
        map_at, recall_at = (
            tuple(dict.fromkeys(min(one, k) for one in at)) for at in (self.map_at, self.recall_at)
        )
        return Cutoffs(map_at, recall_at)

    def values(self, hits: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
        """Compute each metric of each query, (Q,); NaN for a query without positives.

        Args:
            hits: (Q, K) as `landmark.metric.relevance` marks them, K at least `deepest` or N.
            relevant: (Q,) number of positives.
        """
        nothing = np.where(relevant > 0, 0.0, np.nan)
        return {
            **{f"map_at_{k}": gldv2.average_precision_at_k(hits, relevant, k) for k in self.map_at},
            **{f"recall_at_{k}": recall_at_k(hits, k) + nothing for k in self.recall_at},
        }


def _distinct(at: int | Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    given = default if at is None else [at] if isinstance(at, int) else at
    return tuple(dict.fromkeys(given)) or tuple(default)


def means(precisions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of each metric over the queries that count; 0 if none does."""
    counted = {name: values[~np.isnan(values)] for name, values in precisions.items()}
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in counted.items()}
