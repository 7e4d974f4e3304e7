"""What the metrics of a re-ranking rest on: photos, descriptors, ground truth, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.rerank.chain import INTERVAL
from landmark.score.ground_truth import GroundTruth

_RECORDED = ("embedder", "table", "whitening", "image", "crop", "scales", "flip", "split")


def protocol(
    stores: Mapping[str, DescriptorStore | StackedStores],
    truth: GroundTruth | None,
    k: int,
    data: str | None,
    steps: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The protocol, to be written beside the metrics.

    Args:
        stores: Stores of queries, gallery and train photos, by name.
        truth: What evaluated the rankings; None: nothing did.
        k: Results of a query.
        data: Name of the set that the ground truth is from. Defaults to the stores' own landmarks.
        steps: Search and re-rankers with their settings, in order.

    Returns:
        `stores`: for each the number and dimension of the descriptors, the digests of embedder,
        image table and whitening, and how the photos were read (image size or crop, scales, flip),
        null where the store does not record it; several searched as one are described under
        `stores` each, and null above where they differ; `ground_truth`, `measures` and
        `distractors` (gallery photos that answer no query), null where nothing was evaluated; `k`;
        `steps`; `interval`: how the intervals of the changes were computed.
    """
    return {
        "stores": {name: _described(store) for name, store in stores.items()},
        "ground_truth": None if truth is None else data or "landmarks of the stores",
        "measures": None if truth is None else list(truth.labels),
        "distractors": None if truth is None else truth.distractors,
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
        described["stores"] = [_described(one) for one in store.stores]
    return described
