"""Artifacts written by version 0.1.0 (tests/written_earlier) still work."""

from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.convert import convert
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.join import join
from landmark.artifact.whitening import Whitening
from landmark.fit.whitening import fit_learned, fit_pca

WRITTEN = Path(__file__).parent / "written_earlier"


def test_a_store_is_read():
    store = DescriptorStore.open(WRITTEN / "store")
    assert store.ids.tolist() == [f"p{row:02d}" for row in range(12)]
    assert store.landmark_ids.tolist() == ["" if row == 5 else f"l{row % 3}" for row in range(12)]
    assert store.vectors.shape == (12, 4)
    assert store.dtype == "float32"
    assert store.skipped.to_numpy().tolist() == [["bad", "a/bad.jpg"]]
    assert store.table_digests == ["fedcba9876543210"]
    assert (store.meta["schema"], store.meta["scales"]) == (1, [0.75, 1.0, 1.25])
    assert "version" not in store.settings


@pytest.mark.parametrize(
    ("name", "digest", "dim"),
    [("pca", "ca4abb6f6045d6e0", 3), ("learned", "f047e9083175243a", 2)],
)
def test_a_whitening_has_the_digest_that_stores_recorded(tmp_path, name, digest, dim):
    store, whitening = DescriptorStore.open(WRITTEN / "store"), Whitening.open(WRITTEN / name)
    assert (whitening.digest, whitening.dim) == (digest, dim)
    convert(store, tmp_path / "whitened", whitening)
    assert DescriptorStore.open(tmp_path / "whitened").meta["whitening"] == digest
    again = fit_pca(store, dim) if name == "pca" else fit_learned(store, dim)
    assert again.meta == whitening.meta
    np.testing.assert_allclose(again.projection, whitening.projection, atol=1e-9)


def test_a_store_is_joined_with_a_new_one(tmp_path):
    store = DescriptorStore.open(WRITTEN / "store")
    DescriptorStore.write(tmp_path / "new", ["new"], np.eye(4, dtype="f4")[:1], **store.settings)
    assert join(tmp_path / "both", [WRITTEN / "store", tmp_path / "new"]) == 13
