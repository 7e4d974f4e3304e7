"""What the figures of a re-ranking rest on: photos, descriptors, ground truth, settings."""

from collections.abc import Mapping
from typing import Any

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.rerank.chain import INTERVAL
from landmark.rerank.truth import Truth

_RECORDED = ("embedder", "table", "whitening", "image", "crop", "scales", "flip", "split")


def protocol(
    stores: Mapping[str, DescriptorStore | StackedStores],
    truth: Truth | None,
    k: int,
    data: str | None,
    steps: list[dict[str, Any]],
) -> dict[str, Any]:
    """The protocol, to be written beside the figures.

    Args:
        stores: Of queries, gallery and train photos, by name.
        truth: What measured the rankings; none: nothing did.
        k: Results kept.
        data: Name of the set whose ground truth it is; none: the stores' own landmarks.
        steps: Search and re-rankers with their settings, in order.

    Returns:
        `stores`: of each the number and dimension of the descriptors, the digests of embedder,
        image table and whitening, and how the photos were read (image size or crop, scales, flip),
        null where the store does not say; several searched as one are described under `stores`
        each, and null above where they differ; `ground_truth`, `measures` and `distractors`
        (gallery photos that answer no query), null where nothing was measured; `k`; `steps`;
        `interval`: how the changes' intervals were found.
    """
    return {
        "stores": {name: _described(store) for name, store in stores.items()},
        "ground_truth": None if truth is None else data or "landmarks of the stores",
        "measures": None if truth is None else list(truth.labels),
        "distractors": None if truth is None else truth.distractors,
        "k": k,
        "steps": steps,
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
