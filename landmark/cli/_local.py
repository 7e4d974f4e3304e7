"""The local features that extract.py computes: from local= and background=, or as recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.error import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from landmark.artifact.local_features import LocalFeatures, LocalFeatureStore
    from landmark.extract.local import Background, LocalExtraction
    from landmark.model.embedder import Embedder

OWN = "own"
_PACKAGE = "landmark."


def requested_local(
    config: DictConfig, background: str | None, embedder: "Embedder", embedder_digest: str
) -> "LocalExtraction | None":
    """Return the local features of local=; None without them.

    Raises:
        UserError: `background` is not a store with a pool of the same local features.
    """
    if config.get("local") is None:
        if background is not None:
            raise UserError(f"background={background} needs local features. Pass local=<choice>.")
        return None
    name = str(HydraConfig.get().runtime.choices["local"])
    settings: Any = OmegaConf.to_container(config.local, resolve=True)
    one = _extraction(name, settings, embedder, embedder_digest)
    return one if background is None else _with_background(one, background)


def local_of_store(
    store: Path, embedder: "Embedder", embedder_digest: str, but: str | None = None
) -> "list[LocalExtraction]":
    """Return the local features that a store has, as recorded, except those called `but`.

    Raises:
        UserError: They were not written by extract.py.
    """
    from landmark.artifact.descriptors import META, DescriptorStore
    from landmark.artifact.local_features import local_names

    if not (store / META).is_file():
        return []
    opened = DescriptorStore.open(store)
    names = [name for name in local_names(store) if name != but]
    return [_recorded(opened.local(name), embedder, embedder_digest) for name in names]


def _extraction(
    name: str, settings: Mapping[str, Any], embedder: "Embedder", embedder_digest: str
) -> "LocalExtraction":
    from landmark.extract.local import LocalExtraction

    feature = instantiate(settings)
    recorded: dict[str, Any] = {"local": dict(settings), "pool": None}
    if getattr(feature, "from_maps", False):
        feature.attach(embedder)
        recorded["embedder"] = embedder_digest
    return LocalExtraction(name, feature, recorded)


def _with_background(one: "LocalExtraction", background: str) -> "LocalExtraction":
    from dataclasses import replace

    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.local_features import POOL
    from landmark.disk.differences import check_same_settings

    source = _Pools()
    if background == OWN:
        return replace(one, pool_source=source, settings={**one.settings, "pool": OWN})
    features = DescriptorStore.open(background).local(one.name)
    check_same_settings(
        features.meta,
        {**one.settings, "pool": features.meta.get("pool")},
        f"{features.path} was made",
        "Use the same local features, or pass background=own.",
    )
    if not (features.path / POOL).is_file():
        raise UserError(
            f"background={background}: {features.path} has no background. Pass a store of "
            "background=own."
        )
    pool = source.open(features.path / POOL)
    return replace(one, pool=pool, settings={**one.settings, "pool": pool.digest})


def _recorded(
    features: "LocalFeatureStore", embedder: "Embedder", embedder_digest: str
) -> "LocalExtraction":
    from dataclasses import replace

    from landmark.artifact.local_features import POOL

    settings = features.settings.get("local")
    target = settings.get("_target_") if isinstance(settings, Mapping) else None
    # Only the user's own command may name code of another package.
    if not (isinstance(settings, Mapping) and str(target).startswith(_PACKAGE)):
        raise UserError(
            f"{features.path} was made by {target or 'another program'}, so photos cannot be added "
            f"to it as recorded. Pass local={features.path.name}, remove that folder, or choose "
            "another output."
        )
    one = _extraction(features.path.name, settings, embedder, embedder_digest)
    pool = _Pools().open(features.path / POOL) if features.settings.get("background") else None
    recorded = {**one.settings, "pool": features.settings.get("pool")}
    return replace(one, pool=pool, settings=recorded, is_requested=False)


@dataclass(frozen=True)
class _Pools:
    """Draws and reads background pools, see `landmark.local.BackgroundPool`."""

    def rows(self, photos: int) -> "NDArray[np.int64]":
        from landmark.local.background import pool_rows

        return pool_rows(photos)

    def draw(
        self,
        photos: "Sequence[LocalFeatures]",
        landmark_ids: Sequence[str] | None,
        vectors: "NDArray[np.floating] | None",
    ) -> "Background":
        from landmark.local.background import BackgroundPool

        return BackgroundPool(photos, landmark_ids, vectors)

    def open(self, path: Path) -> "Background":
        from landmark.local.background import BackgroundPool

        return BackgroundPool.open(path)
