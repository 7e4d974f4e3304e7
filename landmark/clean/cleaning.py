"""Find and verify the pairs of a cleaning, or read those that the output folder has."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.folder import read_json, write_json
from landmark.clean.audit import nearest_train_photos
from landmark.clean.candidates import find_candidates
from landmark.clean.folder import is_reusable, replacing
from landmark.clean.output import (
    AUDIT_PAIRS,
    META,
    PAIRS,
    PHOTOS,
    facts_table,
    new_meta,
    read_facts,
)
from landmark.clean.pairs import Pairs
from landmark.clean.selection import Photos
from landmark.clean.train_photos import TrainPhotos
from landmark.clean.verification import verify_candidates
from landmark.disk.lock import staging_folder
from landmark.processes import barrier, rank
from landmark.search.blocks import Vectors
from landmark.search.index import Index, Search
from landmark.verify import Features
from landmark.verify.pair_blocks import Verify

_NULL_PAIRS = 2000
Local = Sequence[Features] | None


@dataclass(frozen=True, eq=False)
class Cleaning:
    """The inputs of a cleaning.

    Attributes:
        output: Folder to write.
        train: Photos to clean.
        test: Store of a test set to audit against; None without an audit.
        verifier: Verifies two photos; None without geometric verification.
        local: Local features of the train photos; None without a verifier.
        test_local: Those of the test photos; None without a verifier or audit.
        search: Search of the train photos.
        k, candidates, others, neighbours: See `find_candidates`.
        audit_k: Nearest train photos of each test photo that are verified.
        processes: Number of processes that verify, see `verify_pairs`.
        settings: Settings of the pairs, which a later call must share to use them again.
        audit_settings: Those of the pairs of the audit; None without one.
    """

    output: Path
    train: TrainPhotos
    test: DescriptorStore | None
    verifier: Verify | None
    local: Local
    test_local: Local
    search: Search
    k: int
    candidates: int
    others: int
    neighbours: int
    audit_k: int
    processes: int | None
    settings: Mapping[str, Any]
    audit_settings: Mapping[str, Any] | None

    @cached_property
    def _index(self) -> Index:
        return self.search.build(self.train.store.vectors)

    @property
    def staging(self) -> Path:
        """The locked staging folder of the output."""
        return staging_folder(self.output)

    def verified_pairs(self, meta: Mapping[str, Any], overwrite: bool) -> tuple[Pairs, Photos]:
        """Return the verified pairs and what the search knows of the photos.

        They are saved in the output before they are returned. All ranks must call it.

        Args:
            meta: meta.json of the output; empty without an earlier cleaning.
            overwrite: Keep nothing of an existing output.

        Raises:
            UserError: The output has pairs of other settings.
        """
        store, photos = self.train.store, len(self.train.store)
        if is_reusable(self.output, meta.get("pairs"), self.settings):
            pairs = Pairs.read(self.output / PAIRS, photos, photos)
            print(f"{len(pairs):,} pairs of {self.output}", flush=True)
            return pairs, read_facts(self.output / PHOTOS, store.ids, self.train.names)
        print(f"{photos:,} photos of {len(self.train.names):,} landmarks", flush=True)
        # Small collections need more pairs of different landmarks for a threshold.
        others = max(self.others, -(-_NULL_PAIRS // photos)) if self.others else 0
        found = find_candidates(
            self._index, self.train.labels, self.k, self.candidates, others, self.neighbours
        )
        print(f"{len(found.pairs):,} pairs{' to verify' if self.verifier else ''}", flush=True)
        vectors = (store.vectors, store.vectors)
        pairs = self._verify(found.pairs, vectors, (self.local, self.local), PAIRS)
        if rank() == 0:
            facts = facts_table(store.rows, found, self.train.names)
            with replacing(self.output, self.staging, (), overwrite) as folder:
                pairs.write(folder / PAIRS, store.ids, store.ids)
                facts.to_parquet(folder / PHOTOS, index=False)
                write_json(folder / META, new_meta(pairs=self.settings))
        self._discard(PAIRS)
        return pairs, Photos(self.train.labels, *found[1:])

    def audit_pairs(self, meta: Mapping[str, Any]) -> Pairs:
        """Return the verified pairs of train and test photos, as `verified_pairs`."""
        assert self.test is not None
        assert self.audit_settings is not None
        store, test = self.train.store, self.test
        if is_reusable(self.output, meta.get("audit"), self.audit_settings):
            return Pairs.read(self.output / AUDIT_PAIRS, len(store), len(test))
        found = nearest_train_photos(self._index, test.vectors, self.audit_k)
        print(f"{len(found):,} pairs of the audit to verify", flush=True)
        vectors = (store.vectors, test.vectors)
        pairs = self._verify(found, vectors, (self.local, self.test_local), AUDIT_PAIRS)
        if rank() == 0:
            recorded = read_json(self.output / META)
            with replacing(self.output, self.staging, (META, AUDIT_PAIRS)) as folder:
                pairs.write(folder / AUDIT_PAIRS, store.ids, test.ids)
                write_json(folder / META, {**recorded, "audit": dict(self.audit_settings)})
        self._discard(AUDIT_PAIRS)
        return pairs

    def _verify(
        self,
        pairs: NDArray[np.int32],
        vectors: tuple[Vectors, Vectors],
        local: tuple[Local, Local],
        name: str,
    ) -> Pairs:
        first, second = local
        both = None if first is None or second is None else (first, second)
        staging = self.staging / Path(name).stem
        return verify_candidates(pairs, vectors, self.verifier, both, staging, self.processes)

    def _discard(self, name: str) -> None:
        """Remove the finished blocks once every rank has read them."""
        barrier()
        if rank() == 0:
            shutil.rmtree(self.staging / Path(name).stem, ignore_errors=True)
