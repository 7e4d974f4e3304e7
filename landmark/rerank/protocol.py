"""The evaluation protocol of a re-ranking: photos, descriptors, ground truth, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.rerank.chain import INTERVAL
from landmark.score.evaluation import GroundTruth
from landmark.score.places import PlaceGroundTruth

_OF_PHOTOS = ("table", "image", "crop", "split")
_RECORDED = ("embedder", "whitening", "scales", "flip", "combine", *_OF_PHOTOS)


def protocol(
    stores: Mapping[str, DescriptorStore | StackedStores],
    truth: GroundTruth | None,
    k: int,
    data: str | None,
    steps: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the protocol, which is written beside the metrics.

    Args:
        stores: Name → store of the queries, the gallery and the train photos.
        truth: Ground truth of the evaluation. None means no evaluation.
        k: Results per query.
        data: Name of the data set that the ground truth is from. Defaults to the landmarks in the
            stores.
        steps: Settings of the search and of each re-ranker, in order.

    Returns:
        `stores`: for each store the number and dimension of the descriptors, the digests of
        embedder, image table and whitening, and how the photos were read (image size or crop,
        scales, flip, combine), null if the store does not record it; stores searched as one are
        listed under `stores`, and settings in which they differ are null; `ground_truth`,
        `measures` and `distractors` (gallery photos without a known landmark or label), null
        without an evaluation; `radius` in metres, only of an evaluation by position; `k`; `steps`;
        `interval`: how the intervals of the changes were computed.

    Example:
        >>> protocol({}, None, k=100, data=None, steps=[{"step": "search"}])["steps"]
        [{'step': 'search'}]
    """
    return {
        "stores": {name: _described(store) for name, store in stores.items()},
        "ground_truth": None if truth is None else data or "landmarks of the stores",
        "measures": None if truth is None else list(truth.labels),
        "distractors": None if truth is None else truth.distractors,
        **({"radius": truth.radius} if isinstance(truth, PlaceGroundTruth) else {}),
        "k": k,
        "steps": list(steps),
        "interval": {"of": "change, paired bootstrap over the queries", **INTERVAL},
    }


def _described(store: DescriptorStore | StackedStores) -> dict[str, Any]:
    described = {
        "photos": len(store),
        "dim": store.dim,
        **{key: store.meta.get(key) for key in _RECORDED},
    }
    if isinstance(store, StackedStores):
        described["stores"] = [_described(part) for part in store.stores]
    return described
