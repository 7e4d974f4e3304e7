"""What the re-rankers by pair models share: score the top results, blocked over pairs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from tqdm import tqdm

from landmark.artifact.pair_model import Method, PairModel
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.pair.scorer import Description, PairScorer
from landmark.processes import notice, rank, shard
from landmark.rerank.expansion import cosines_of
from landmark.rerank.parallel import across_ranks, in_parallel
from landmark.rerank.ranking import reorder_top
from landmark.rerank.retrieval import Retrieval, local_of
from landmark.search.index import local_torch_device
from landmark.verify import Features

Module = TypeVar("Module", bound=torch.nn.Module)

_BLOCK_VALUES = 2**23  # of the global descriptors of a block of queries: 32 MB
_PAIRS_CPU, _PAIRS_GPU = 16, 64  # scored in one call
_KEPT_VALUES = 2**26  # of the descriptions of photos: 256 MB
_LEAST_WIDTH = 192  # values of a described row: those of published models, and some more


class _Pairs(NamedTuple):
    """A query and some of its results."""

    query: int
    places: slice


class PairReranker(ABC):
    """Re-ranking of the top results by weight * cosine + (1 - weight) * sigmoid(gamma * score).

    The score is that of a pair model, from the local descriptors of query and photo; the cosine is
    that of the current descriptors. The other results keep their order and, if they are not above
    the new scores, their scores. A weight of 1 leaves the ranking as it is.

    Each photo is described once as long as its description stays in a cache of bounded size, and
    pairs are scored in blocks, so that the memory does not grow with the number of queries and
    photos. On the CPU each thread scores its own pairs; the ranks of a launcher share the queries.

    Args:
        name: Name of the re-ranker, for messages.
        local: Name of the local features.
        top: Number of results to re-rank; all if there are fewer.
        weight: Weight of the cosine, in 0 … 1.
        gamma: Factor of the score.
        max_descriptors: Number of descriptors per photo, those of the highest scores.
        device: Device of the model.

    Attributes:
        needs_local: Names of the local features that the stores need; none with a weight of 1.
    """

    def __init__(
        self,
        name: str,
        local: str,
        top: int,
        weight: float,
        gamma: float,
        max_descriptors: int,
        device: str,
    ) -> None:
        self.name = f"rerank.{name}"
        self.local = local
        self.top = top
        self.weight = weight
        self.gamma = gamma
        self.max_descriptors = max_descriptors
        self.device = device
        self.needs_local = [local] if weight < 1 else []

    @abstractmethod
    def scorer(self, device: torch.device) -> PairScorer:
        """Return what scores the pairs."""

    def prepare(self, descriptors: np.ndarray) -> Tensor:
        """Return stored descriptors (n, d) as the model takes them: float32, unit rows."""
        rows = torch.from_numpy(np.asarray(descriptors, np.float32))
        return torch.nn.functional.normalize(rows, dim=1)

    def check_local(self, local: Sequence[Features]) -> None:  # noqa: B027
        """Check that the pair model reads these local features.

        Raises:
            UserError: It does not.
        """

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Re-rank the top results; replaces rows and scores.

        Raises:
            UserError: The retrieval has no local features of this name, or they are not those that
                the model was fitted on.
        """
        if self.weight == 1:
            notice(f"{self.name}.weight=1: the ranking stays as it is.")
            return retrieval
        top = min(self.top, retrieval.rows.shape[1])
        photos = self._photos(retrieval)

        def reranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            rows = retrieval.rows[part].astype(np.int32)
            scores = retrieval.scores[part].astype(np.float32)
            cosines = cosines_of(retrieval.query[part], retrieval.gallery, rows[:, :top])
            evidence = self._evidence(photos, part.start, rows[:, :top], progress)
            new = np.float32(self.weight) * np.where(rows[:, :top] >= 0, cosines, 0)
            new += np.float32(1 - self.weight) * evidence
            new[rows[:, :top] < 0] = -np.inf
            return reorder_top(rows, scores, new)

        block_size = max(1, _BLOCK_VALUES // (top * retrieval.gallery.shape[1]))
        own = retrieval.rows[shard(len(retrieval.query)), :top]
        with (
            _restored_threads(),
            tqdm(
                total=int((own >= 0).sum()),
                desc=self.name,
                unit=" pairs",
                disable=True if rank() else None,  # None: only in a terminal
            ) as progress,
        ):
            rows, scores = across_ranks(len(retrieval.query), reranked, block_size)
        return retrieval.with_ranking(rows, scores)

    def _photos(self, retrieval: Retrieval) -> "Photos":
        """Return what describes the photos of the retrieval."""
        sides = [
            local_of(local, self.local, f"{self.name} compares")
            for local in (retrieval.query_local, retrieval.gallery_local)
        ]
        for side in sides:
            self.check_local(side)
        device = local_torch_device(self.device)
        return Photos(self.scorer(device), self.prepare, sides, self.max_descriptors, device)

    def _evidence(
        self, photos: "Photos", first: int, ranked: NDArray[np.int32], progress: tqdm
    ) -> NDArray[np.float32]:
        """Return sigmoid(gamma * score) of the results (B, top) of queries from `first` on."""
        scores = np.zeros(ranked.shape, np.float32)
        size = _PAIRS_CPU if photos.device.type == "cpu" else _PAIRS_GPU
        blocks = [
            _Pairs(query, places)
            for query in range(len(ranked))
            for places in row_blocks(int((ranked[query] >= 0).sum()), size)
        ]

        def scored(pairs: _Pairs) -> NDArray[np.float32]:
            return photos.scores(first + pairs.query, ranked[pairs.query, pairs.places])

        on_cpu = photos.device.type == "cpu"
        results = in_parallel(scored, blocks) if on_cpu else map(scored, blocks)
        for pairs, values in zip(blocks, results, strict=True):
            scores[pairs.query, pairs.places] = values
            progress.update(len(values))
        return expit(np.float32(self.gamma) * scores)


class FittedPairReranker(PairReranker):
    """Re-ranking with a fitted pair model; see `PairReranker`.

    Args:
        method: Method of the fit.
        weights: Folder that fit.py wrote.
        local: Name of the local features. None means those of the fit.
        weight: Weight of the cosine. None means that of the fit.
        gamma: Factor of the score. None means that of the fit.
        **options: See `PairReranker`.

    Raises:
        UserError: `weights` is None or not a fit of this method, or `local` is not what it was
            fitted on.
    """

    def __init__(
        self,
        method: Method,
        weights: str | Path | None,
        local: str | None,
        weight: float | None,
        gamma: float | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if weights is None:
            raise UserError(
                f"rerank={method} needs a fitted model. Pass rerank.{method}.weights=FITTED, which "
                f"landmark fit fit={method} train=STORE output=FITTED writes."
            )
        self.model = PairModel.open(weights, method)
        self.weights = Path(weights)
        fitted_on = str(self.model.meta["local"])
        if local not in (None, fitted_on):
            raise UserError(
                f"rerank.{method}.local={local}, but {weights} was fitted on the local features "
                f"{fitted_on!r}. Pass rerank.{method}.local={fitted_on}, or other weights."
            )
        weight = float(self.model.meta["weight"]) if weight is None else weight
        gamma = float(self.model.meta["gamma"]) if gamma is None else gamma
        super().__init__(method, fitted_on, weight=weight, gamma=gamma, **options)

    def check_local(self, local: Sequence[Features]) -> None:
        """Check the dimension and the settings of stored local features."""
        for part in getattr(local, "parts", [local]):  # several stores stacked
            if hasattr(part, "settings"):
                self.model.check_fits(part.dim, part.settings, part.path)

    def load(self, build: Callable[..., Module], device: torch.device) -> Module:
        """Build the model and copy the fitted weights into it.

        Raises:
            UserError: They are not those of such a model.
        """
        state = {key: torch.from_numpy(value) for key, value in self.model.weights.items()}
        try:
            module = build(**self.model.meta["model"])
            module.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.weights} is damaged ({reason}). Fit it again.") from error
        return module.eval().to(device)


@contextmanager
def _restored_threads() -> Iterator[None]:
    """Restore the number of threads of PyTorch, which workers set to 1 for themselves."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Photos:
    """Scores pairs of a retrieval; describes each photo once, while it stays in the cache.

    On a GPU the gallery photos of a call are described together.

    Args:
        scorer: What scores the pairs.
        prepare: Stored descriptors (n, d) → rows as the scorer takes them.
        sides: Local features of the queries, and of the gallery.
        max_descriptors: Number of descriptors per photo, those of the highest scores.
        device: Device of the scores.

    Example:
        >>> from types import SimpleNamespace
        >>> from landmark.pair.scorer import ChamferScorer
        >>> photos = [SimpleNamespace(descriptors=np.eye(3, dtype=np.float32))] * 2
        >>> sides, device = (photos, photos), torch.device("cpu")
        >>> scored = Photos(ChamferScorer(), torch.from_numpy, sides, 10, device)
        >>> scored.scores(0, np.array([0, 1])).round(1).tolist()
        [5.699999809265137, 5.699999809265137]
    """

    def __init__(
        self,
        scorer: PairScorer,
        prepare: Callable[[np.ndarray], Tensor],
        sides: Sequence[Sequence[Features]],
        max_descriptors: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self._scorer, self._prepare = scorer, prepare
        self._max_descriptors = max_descriptors
        self._sides = sides  # queries, gallery
        width = max(_LEAST_WIDTH, sides[1][0].descriptors.shape[1])
        self._most_kept = max(_PAIRS_GPU, _KEPT_VALUES // (max_descriptors * width))
        self._described: Callable[[int, bool], Description] = lru_cache(self._most_kept)(
            self._describe
        )
        self._kept: dict[int, Description] = {}  # gallery photos on a GPU, the oldest first

    def scores(self, query: int, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Score a query against gallery rows, (n,)."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        with torch.inference_mode():
            own = self._described(query, False)
            if self.device.type == "cpu":
                photos = [self._described(row, True) for row in rows.tolist()]
            else:
                photos = self._described_together(rows.tolist())
            return self._scorer.scores(own, photos).cpu().numpy()

    def _describe(self, row: int, is_gallery: bool) -> Description:
        rows = strongest(self._sides[is_gallery][row], self._max_descriptors)
        return self._scorer.describe(self._prepare(rows).to(self.device), is_gallery)

    def _described_together(self, rows: list[int]) -> list[Description]:
        """Describe gallery photos in one call, which starts as many kernels as one photo."""
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        photos = {row: self._kept[row] for row in rows if row in self._kept}
        if missing:
            stored = [strongest(self._sides[1][row], self._max_descriptors) for row in missing]
            descriptors = self._prepare(np.concatenate(stored)).to(self.device)
            described = self._scorer.describe(descriptors, is_gallery=True)
            counts = [len(one) for one in stored]
            parts = zip(*(part.split(counts) for part in described), strict=True)
            photos |= dict(zip(missing, parts, strict=True))
            self._kept |= {row: photos[row] for row in missing}
            for row in list(self._kept)[: -self._most_kept]:
                del self._kept[row]
        return [photos[row] for row in rows]


def strongest(photo: Features, count: int) -> np.ndarray:
    """Return the descriptors (n, d) with the `count` highest scores, in their order.

    Features without scores are taken from the first.

    Example:
        >>> from types import SimpleNamespace
        >>> photo = SimpleNamespace(descriptors=np.eye(3), scores=np.array([0.5, 0.1, 0.7]))
        >>> strongest(photo, 2).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    descriptors, scores = photo.descriptors, getattr(photo, "scores", None)
    if len(descriptors) <= count:
        return np.asarray(descriptors)
    if scores is None:
        return np.asarray(descriptors[:count])
    best = np.sort(np.argsort(-np.asarray(scores), kind="stable")[:count])
    return np.asarray(descriptors[best])
