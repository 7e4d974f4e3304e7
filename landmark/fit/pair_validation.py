"""Held-out landmarks: how well a pair model re-ranks them, and with which weight and gamma."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from tqdm import tqdm

from landmark.artifact.descriptors import DescriptorStore
from landmark.error import UserError
from landmark.fit.held_out import codes_of
from landmark.metric.bootstrap import Interval, mean_interval
from landmark.metric.gldv2 import average_precision_at_k
from landmark.metric.relevance import hits_by_label
from landmark.pair.scorer import Description, PairScorer
from landmark.search import Flat

TOP = 100  # results that are re-ranked
_WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(9, -1, -1))
_GAMMAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_MOST_PHOTOS = 10_000
_KEPT_PHOTOS = 1024  # whose descriptions stay in memory
_LEAST_LANDMARKS = 2
_CONFIDENCE = 0.8  # so that a gain that is kept is real in nine of ten cases
# mAP of a search that leaves nothing to choose by. Then: gamma times the mean difference of the
# scores of photos of the same and of other landmarks, the least weight, and what it may cost.
_SATURATED, _FIXED_DIFFERENCE, _FIXED_WEIGHT, _MOST_LOSS = 0.98, 0.4, 0.5, 0.002


class Choice(NamedTuple):
    """How scores are combined with the cosine.

    Attributes:
        weight: Weight of the cosine.
        gamma: Factor of the score.
        map: mAP@100 of the queries.
        gains: (Q,) what the pair model adds to the average precision of each query, with the weight
            and gamma of the queries of other landmarks.
        is_measured: Whether the queries chose weight and gamma, which they cannot where the search
            finds all of them.
    """

    weight: float
    gamma: float
    map: float
    gains: NDArray[np.float64]
    is_measured: bool = True

    @property
    def gain(self) -> Interval:
        """The mean gain and its 80 % interval."""
        return mean_interval(self.gains, _CONFIDENCE)


def landmark_codes(store: DescriptorStore, method: str) -> NDArray[np.int64]:
    """Number the landmarks of all photos, (N,); -1 if unknown.

    Raises:
        UserError: The store has no landmarks, or fewer than four with two photos.
    """
    codes = codes_of(
        store,
        f"for fit={method} to learn from. Extract a split whose landmarks are known.",
    )
    pairs = int((np.bincount(codes[codes >= 0]) >= 2).sum())
    if pairs < 2 * _LEAST_LANDMARKS:
        raise UserError(
            f"{store.path}: {pairs} landmarks have two photos or more, and fit={method} needs "
            f"{2 * _LEAST_LANDMARKS}, of which {_LEAST_LANDMARKS} are held out. Fit on more "
            "landmarks."
        )
    return codes


def held_out_rows(codes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Hold out a share of the landmarks that have two photos or more; return their rows, ascending.

    At least two are held out and two are left; of large stores only so many are held out as have
    about 10,000 photos.

    Example:
        >>> codes = np.repeat([0, 1, 2, 3], 3)
        >>> len(held_out_rows(codes, 0.25, seed=0))
        6
    """
    counts = np.bincount(codes[codes >= 0])
    landmarks = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(counts >= 2))
    count = round(share * len(landmarks))
    landmarks = landmarks[: min(max(count, _LEAST_LANDMARKS), len(landmarks) - _LEAST_LANDMARKS)]
    before = np.cumsum(counts[landmarks]) - counts[landmarks]
    keep = (before < _MOST_PHOTOS) | (np.arange(len(landmarks)) < _LEAST_LANDMARKS)
    return np.flatnonzero(np.isin(codes, landmarks[keep]))


@dataclass(frozen=True)
class HeldOut:
    """Held-out photos, and the rankings of some of them among the others.

    Attributes:
        rows: (H,) rows of the store.
        codes: (H,) landmark of each.
        queries: (Q,) positions of the queries in `rows`.
        ranked: (Q, K) positions of their nearest photos, best first.
        cosines: (Q, K).
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    queries: NDArray[np.int64]
    ranked: NDArray[np.int64]
    cosines: NDArray[np.float32]

    @classmethod
    def search(
        cls,
        store: DescriptorStore,
        rows: NDArray[np.int64],
        codes: NDArray[np.int64],
        most_queries: int,
        seed: int,
        device: str = "auto",
    ) -> "HeldOut":
        """Search the held-out photos for each other.

        Args:
            store: Descriptors.
            rows: (H,) held-out rows, ascending.
            codes: (N,) landmark of each photo of the store.
            most_queries: Number of queries, drawn from the held-out photos.
            seed: Seed of the draw.
            device: Device of the search.
        """
        drawn = np.random.default_rng([seed, 2]).permutation(len(rows))[:most_queries]
        queries = np.sort(drawn)
        vectors = np.asarray(store.vectors[rows], np.float32)
        k = min(TOP, len(rows) - 1)
        found, scores = Flat(device=device).build(vectors).search(vectors[queries], k + 1)
        # Without the query itself; of more than k identical photos it may not be among the first.
        is_other = found != queries[:, None]
        is_other[is_other.all(axis=1), -1] = False
        shape = (len(queries), k)
        return cls(
            rows, codes[rows], queries, found[is_other].reshape(shape),
            scores[is_other].reshape(shape),
        )  # fmt: skip

    def scores(
        self, scorer: PairScorer, load: Callable[[int], torch.Tensor]
    ) -> NDArray[np.float32]:
        """Score each query against its nearest photos, (Q, K).

        Args:
            scorer: Scores the pairs.
            load: Returns the descriptors (n, d) of a row of the store, unit rows.
        """

        @lru_cache(_KEPT_PHOTOS)
        def described(position: int) -> Description:
            return scorer.describe(load(int(self.rows[position])), is_gallery=True)

        scores = np.empty(self.ranked.shape, np.float32)
        bar = tqdm(self.queries.tolist(), "held-out photos", leave=False, disable=None)
        with torch.inference_mode():
            for number, query in enumerate(bar):
                own = scorer.describe(load(int(self.rows[query])), is_gallery=False)
                photos = [described(position) for position in self.ranked[number].tolist()]
                scores[number] = scorer.scores(own, photos).cpu().numpy()
        return scores

    def choose(self, scores: NDArray[np.float32]) -> Choice:
        """Return the combination whose neighbourhood in the grid has the highest mAP.

        Of few queries the single best one is often a lucky one at the edge of what works. Of equal
        ones that with most weight is chosen. The gain is measured on one half of the landmarks with
        the combination of the other half: what is best of many always seems to gain.

        Photos that a network was trained on find each other by their global descriptors, and no
        pair model can gain: gamma then follows from the scores, and the weight is the least one,
        from 0.5 on, that costs the search at most 0.002.
        """
        if self.is_saturated:
            return self._fixed(scores)
        grid = [(weight, gamma) for weight in _WEIGHTS for gamma in _GAMMAS]
        precisions = np.stack(
            [self._precisions(self._combined(scores, *values)) for values in grid]
        )  # (W · G, Q)
        best = _best(precisions)
        _, of_query = np.unique(self.codes[self.queries], return_inverse=True)
        search = self.search_precisions()
        gains = np.zeros(len(search))
        for half in (of_query % 2 == 0, of_query % 2 == 1):
            if half.any() and not half.all():
                gains[half] = precisions[_best(precisions[:, ~half])][half] - search[half]
        return Choice(*grid[best], float(precisions[best].mean()), gains)

    @property
    def is_saturated(self) -> bool:
        """Whether the search finds so much that no pair model can be chosen by it."""
        return float(self.search_precisions().mean()) >= _SATURATED

    def _fixed(self, scores: NDArray[np.float32]) -> Choice:
        """Return the combination with most evidence that does no harm."""
        same = self.codes[self.ranked] == self.codes[self.queries][:, None]
        search, difference = self.search_precisions(), 0.0
        if same.any() and not same.all():
            difference = float(scores[same].mean() - scores[~same].mean())
        if difference > 0:
            gamma = _FIXED_DIFFERENCE / difference
            for weight in sorted(one for one in _WEIGHTS if one >= _FIXED_WEIGHT):
                gains = self._precisions(self._combined(scores, weight, gamma)) - search
                if gains.mean() >= -_MOST_LOSS:
                    mean = float((search + gains).mean())
                    return Choice(weight, gamma, mean, gains, is_measured=False)
        return Choice(1.0, 1.0, float(search.mean()), np.zeros(len(search)), is_measured=False)

    def search_precisions(self) -> NDArray[np.float64]:
        """Return the average precision of each query without re-ranking, (Q,)."""
        return self._precisions(self.cosines)

    def _combined(
        self, scores: NDArray[np.float32], weight: float, gamma: float
    ) -> NDArray[np.float32]:
        evidence = expit(np.float32(gamma) * scores)
        return np.float32(weight) * self.cosines + np.float32(1 - weight) * evidence

    def _precisions(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        order = np.argsort(-values, axis=1, kind="stable")
        ranked = np.take_along_axis(self.ranked, order, axis=1)
        hits, relevant = hits_by_label(ranked, self.codes[self.queries], self.codes)
        return average_precision_at_k(hits, relevant - 1, TOP)

    def recorded(self) -> dict[str, Any]:
        """Return the counts for fit.yaml."""
        return {
            "landmarks": len(np.unique(self.codes)),
            "photos": len(self.rows),
            "queries": len(self.queries),
        }


def _best(precisions: NDArray[np.float64]) -> int:
    """Return the place in the grid whose neighbourhood has the highest mAP, of (W · G, Q)."""
    maps = precisions.mean(axis=1).reshape(len(_WEIGHTS), len(_GAMMAS))
    return int(np.argmax(smooth(maps).round(9)))


def smooth(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each value (W, G) and its neighbours: 9, and 6 or 4 at the border.

    Example:
        >>> smooth(np.array([[0.0, 4.0], [4.0, 4.0]])).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """
    padded = np.pad(grid, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.nanmean(windows, axis=(2, 3))


def local_name(store: DescriptorStore, names: list[str], local: str | None, method: str) -> str:
    """Return the name of the local features to fit to.

    Raises:
        UserError: The store has none, or several and `local` is None.
    """
    if local is not None:
        return local
    if not names:
        raise UserError(
            f"{store.path} has no local features, which fit={method} learns from. Extract them: "
            f"extract.py output={store.path} local=patches."
        )
    if len(names) > 1:
        raise UserError(
            f"{store.path} has the local features {', '.join(names)}. Pass fit.local={names[0]}, "
            "or another of them."
        )
    return names[0]
