"""Re-ranking by local evidence: verify the top results by the photos' local features."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.rerank.expansion import cosines_of
from landmark.rerank.parallel import across_ranks
from landmark.rerank.ranking import reorder_top
from landmark.rerank.retrieval import Retrieval, local_of
from landmark.settings import checked
from landmark.verify import Features, Verification, verify_pairs

_BLOCK_VALUES = 2**23  # of descriptors: 32 MB
_PURPOSE = "spatial re-ranking verifies"
_SAMPLED = 1000  # queries from which the spread of the cosines is measured
_BLOCK_PAIRS = 2**20  # verified in one call, which needs 60 bytes a pair


class LocalVerifier(Protocol):
    """Verifies two photos by the local features of one name (see `landmark.verify`)."""

    @property
    def features(self) -> str:
        """Name of the local features that it reads."""

    def __call__(self, a: Features, b: Features) -> Verification:
        """Verify photo `a` against photo `b`."""


class Spatial:
    """Re-ranking of the top results by cosine and local evidence.

    The score of a result is its cosine plus the evidence of each verifier, where s is the score
    that the verifier gives query and photo:

    - Without caps: weight * u * log(1 + max(s - t, 0) / v). The lower half of the top results of
      all queries tells what scores photos of other places have: v is their spread, t is
      `deviations` spreads above their median, and u is the spread of the cosines there (of up to
      1,000 queries). A spread is 1.4826 times the median absolute deviation, so up to half of
      these results may show their query's landmark. Scores that other places have too do not
      count, one weight suits networks and verifiers of any scale, and no labels are needed.
    - With caps: weight * min(max(s, 0), cap) / cap.

    The cosine is that of the current descriptors, so a query expansion before it counts. The other
    results keep their order and, if they are not above the new scores, their scores.

    Args:
        verify: Name → verifier of query and photo.
        weights: Name → weight of the verifier. A verifier of weight 0 is not used, and its local
            features are not needed.
        caps: Name → score from which the evidence is complete. None means that the evidence is
            measured by its spread.
        deviations: Without caps: spreads above the median at which a score begins to count.
        top: Number of results to re-rank; all if there are fewer.
        processes: Number of processes of each rank, see `verify_pairs`.

    Attributes:
        needs_local: Names of the local features that the stores need.

    Raises:
        UserError: A verifier has no weight or cap, a weight or cap has no verifier, or no verifier
            has a weight.

    Source:
        Yokoo et al.: Two-stage Discriminative Re-ranking for Large-scale Landmark Retrieval. CVPRW
        2020, arXiv 2003.11211: cosine + min(inliers, 70) / 70.

    Example:
        >>> class SameSize:
        ...     features = "drawn"
        ...     def __call__(self, a, b):
        ...         none = np.empty((0, 2), int)
        ...         return Verification(7.0 * (a.size == b.size), 0, none, none[:, 0] > 0, None)
        >>> from types import SimpleNamespace
        >>> photos = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
        >>> local = [SimpleNamespace(size=(9, height)) for height in (4, 5, 4)]
        >>> retrieval = Retrieval(
        ...     photos[:1], photos[1:], np.array([[0, 1]]), np.array([[0.8, 0.6]], np.float32),
        ...     query_local={"drawn": local[:1]}, gallery_local={"drawn": local[1:]})
        >>> spatial = Spatial({"size": SameSize()}, weights={"size": 0.3}, caps={"size": 7.0})
        >>> result = spatial(retrieval)
        >>> result.rows.tolist(), (10 * result.scores).round().tolist()
        ([[1, 0]], [[9.0, 8.0]])
    """

    @checked
    def __init__(
        self,
        verify: Mapping[str, LocalVerifier],
        weights: Mapping[str, Annotated[float, Field(ge=0, le=1e6)]],
        caps: Mapping[str, PositiveFloat] | None = None,
        deviations: Annotated[float, Field(ge=0, le=100)] = 2.0,
        top: PositiveInt = 100,
        processes: PositiveInt | None = None,
    ) -> None:
        for key, values in (("weights", weights), ("caps", caps)):
            if values is None:
                continue
            if odd := verify.keys() ^ values.keys():
                raise UserError(
                    f"verify has {_names(verify)}, but {key} has {_names(values)}. Pass "
                    f"verify.{min(odd)} and {key}.{min(odd)}, or neither."
                )
        self.verify = {name: verifier for name, verifier in verify.items() if weights[name]}
        if not self.verify:
            raise UserError(f"every weight is 0. Pass a weights.{min(verify, default='<name>')}.")
        self.weights = {name: float(weights[name]) for name in self.verify}
        self.caps = None if caps is None else {name: float(caps[name]) for name in self.verify}
        self.deviations = deviations
        self.top = top
        self.processes = processes
        self.needs_local = sorted({verifier.features for verifier in self.verify.values()})

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Re-rank the top results; replaces rows and scores.

        Raises:
            UserError: The retrieval has no local features of a name, or they lack what a verifier
                needs.
        """
        top = min(self.top, retrieval.rows.shape[1])
        evidence = self._evidence(retrieval, top)

        def reranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            rows = retrieval.rows[part].astype(np.int32)
            scores = retrieval.scores[part].astype(np.float32)
            new = cosines_of(retrieval.query[part], retrieval.gallery, rows[:, :top])
            new += evidence[part]
            return reorder_top(rows, scores, new)

        block_size = max(1, _BLOCK_VALUES // (top * retrieval.gallery.shape[1]))
        rows, scores = across_ranks(len(retrieval.query), reranked, block_size)
        return retrieval.with_ranking(rows, scores)

    def _evidence(self, retrieval: Retrieval, top: int) -> NDArray[np.float32]:
        """Return the weighted evidence of the top results, (Q, top); 0 at the pads."""
        ranked = retrieval.rows[:, :top]
        unit = 1.0 if self.caps is not None else _spread_of_cosines(retrieval, top)
        evidence = np.zeros(ranked.shape, np.float32)
        for name, verifier in self.verify.items():
            scores = self._scores(verifier, retrieval, ranked)
            if self.caps is None:
                share = self._beyond_others(scores, ranked)
            else:
                share = np.clip(scores, 0, self.caps[name]) / np.float32(self.caps[name])
            evidence += np.float32(self.weights[name] * unit) * share
        return evidence

    def _beyond_others(
        self, scores: NDArray[np.float32], ranked: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Return log(1 + max(s - t, 0) / v) of the scores s of ranked rows (Q, top); 0 at pads."""
        part = _lower(scores.shape[1])
        lower = scores[:, part][ranked[:, part] >= 0]
        if not lower.size:
            return np.zeros_like(scores)
        spread = _spread(lower) or 1.0
        threshold = np.median(lower) + self.deviations * spread
        excess = np.maximum(scores - threshold, 0) / spread
        return np.where(ranked >= 0, np.log1p(excess), 0).astype(np.float32)

    def _scores(
        self, verifier: LocalVerifier, retrieval: Retrieval, ranked: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Return the verifier's scores of the results (Q, top); 0 at the pads."""
        query = local_of(retrieval.query_local, verifier.features, _PURPOSE)
        gallery = local_of(retrieval.gallery_local, verifier.features, _PURPOSE)
        scores = np.zeros(ranked.shape, np.float32)
        for part in row_blocks(len(ranked), max(1, _BLOCK_PAIRS // ranked.shape[1])):
            queries, places = np.nonzero(ranked[part] >= 0)
            pairs = np.stack([queries + part.start, ranked[part][queries, places]], axis=1)
            scores[part][queries, places] = self._verified(verifier, query, gallery, pairs)
        return scores

    def _verified(
        self,
        verifier: LocalVerifier,
        query: Sequence[Features],
        gallery: Sequence[Features],
        pairs: NDArray[np.integer],
    ) -> NDArray[np.float32]:
        """Return the scores of pairs (P, 2); every rank passes all pairs and verifies a share."""
        return verify_pairs(verifier, query, gallery, pairs, processes=self.processes).scores


def _lower(top: int) -> slice:
    """Return the places of the lower half of the top results."""
    return slice(top // 2, top)


def _spread(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation: the standard deviation of a normal.

    Where more than half of the values are equal it is their standard deviation.
    """
    deviation = float(np.median(np.abs(values - np.median(values))))
    return 1.4826 * deviation or float(values.std())


def _spread_of_cosines(retrieval: Retrieval, top: int) -> float:
    """Return the spread of the cosines in the lower half of the top results."""
    count = len(retrieval.query)
    sampled = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.intp))
    rows = retrieval.rows[sampled, _lower(top)]
    cosines = cosines_of(retrieval.query[sampled], retrieval.gallery, rows)[rows >= 0]
    return _spread(cosines) if cosines.size else 0.0


def _names(values: Mapping[str, object]) -> str:
    return ", ".join(sorted(values)) or "none"
