"""Plan an extraction: compare its settings with the content of its output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from landmark.artifact.descriptors import IDS, META, UNRECORDED, DescriptorStore
from landmark.artifact.partial_store import PartialStore, recorded_settings
from landmark.artifact.photo_paths import positions_of
from landmark.data.image_table import ImageTable
from landmark.device import torch_device
from landmark.disk.atomic import check_can_write
from landmark.disk.differences import as_recorded, check_same_settings, differences
from landmark.disk.digest import digest_of_files
from landmark.disk.lock import staging_folder
from landmark.error import UserError
from landmark.extract.existing_local import (
    check_no_stopped_local,
    lacking_local,
    recorded_local,
    table_rows,
)
from landmark.extract.extraction import Extraction
from landmark.extract.local import LocalExtraction
from landmark.model.embedder import Embedder
from landmark.processes import launch


@dataclass(frozen=True)
class Plan:
    """A descriptor store to write.

    Attributes:
        extraction: Photos to describe and settings of the extraction.
        embedder: The loaded embedder of the extraction.
        output: Folder of the store.
        dtype: Dtype of the stored vectors: float16 or float32.
        settings: Settings that the vectors depend on, as recorded in meta.json.
        overwrite: Discard a stopped extraction and replace an existing store.
        add: Add the photos that are missing from an existing store.
        devices: Number of processes to start.
        local: Local features to extract: the requested one, and with `add` those of the store.
    """

    extraction: Extraction
    embedder: Embedder
    output: Path
    dtype: str
    settings: dict[str, Any]
    overwrite: bool = False
    add: bool = False
    devices: int = 1
    local: tuple[LocalExtraction, ...] = ()

    @property
    def dim(self) -> int:
        """Dimension of the stored vectors."""
        whitening = self.extraction.whitening
        return self.embedder.embedding_dim if whitening is None else whitening.dim

    @property
    def signature(self) -> dict[str, Any]:
        """Settings that an existing store or a stopped extraction must have."""
        return as_recorded({**self.settings, "dtype": self.dtype})

    def check_devices(self) -> None:
        """Check the number of devices before any photo is described.

        Raises:
            UserError: `devices` exceeds the number of GPUs, or differs from the launcher's number
                of processes.
        """
        started = launch()
        if started.world_size > 1 and self.devices not in (1, started.world_size):
            raise UserError(
                f"devices={self.devices}, but the launcher started {started.world_size} "
                "processes. Leave devices out."
            )
        processes = max(self.devices, started.local_world_size)
        device = torch_device(self.extraction.device, started.local_rank, processes)
        gpus = torch.cuda.device_count()
        if device.type == "cuda" and self.devices > gpus:
            raise UserError(
                f"devices={self.devices} is more than the {gpus} GPUs. Pass devices={gpus}."
            )


@dataclass(frozen=True)
class MissingPhotos:
    """The photos of a table that are missing from a store.

    Attributes:
        store: The store.
        rows: Table rows of the missing photos, ascending, (M,).
        not_in_table: Number of photos of the store that are not in the table; they are kept.
    """

    store: DescriptorStore
    rows: NDArray[np.int64]
    not_in_table: int

    @classmethod
    def diff(cls, table: ImageTable, store: DescriptorStore) -> "MissingPhotos":
        """Compare the ids and landmarks of a table with those of a store.

        Raises:
            UserError: A photo has different landmarks in the table and in the store.
        """
        positions = positions_of(table.rows["id"], store.ids)
        _check_same_landmarks(table, store, positions)
        present = int((positions >= 0).sum())
        return cls(store, np.flatnonzero(positions < 0), len(store) - present)

    def prepend_existing(self, added: pd.DataFrame, root: str) -> pd.DataFrame:
        """Return the rows of ids.parquet: the store's rows, then `added`.

        The store's paths are dropped unless they are below the same `root`.
        """
        rows = pd.DataFrame({"id": pd.Series(self.store.ids, dtype="str")})
        landmarks = self.store.landmark_ids
        if landmarks is not None or "landmark_id" in added:
            rows["landmark_id"] = pd.Series(landmarks, index=rows.index, dtype="str")
        if self.store.meta.get("root") == root:
            stored = self.store.rows
            rows = rows.join(stored[stored.columns.difference(["id", "landmark_id"], sort=False)])
        return pd.concat([rows, added], ignore_index=True)

    def skipped(self, skipped: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """Return all skipped photos, previous and new, that are not in `rows`."""
        both = pd.concat([self.store.skipped, skipped], ignore_index=True)
        return both[~both["id"].isin(rows["id"])].drop_duplicates("id", keep="last")


def _check_same_landmarks(
    table: ImageTable, store: DescriptorStore, positions: NDArray[np.int64]
) -> None:
    in_table, in_store = table.landmark_ids, store.landmark_ids
    if in_table is None or in_store is None:
        return
    shared = np.flatnonzero(positions >= 0)
    old = in_store[positions[shared]]
    new = pd.Series(in_table[shared]).fillna("").to_numpy(dtype=str)
    differs = (old != new) & (old != "") & (new != "")
    if differs.any():
        first = int(differs.argmax())
        raise UserError(
            f"{store.path}: photo {table.rows['id'].iloc[shared[first]]!r} has landmark "
            f"{old[first]}, and {new[first]} in the table ({int(differs.sum()):,} such photos in "
            "all). Pass overwrite=true to start over."
        )


@dataclass(frozen=True)
class Fresh:
    """The output contains no store, or the store is to be overwritten."""

    missing: None = None


@dataclass(frozen=True)
class Extend:
    """Photos of the table are missing from the existing store."""

    missing: MissingPhotos


@dataclass(frozen=True)
class AddLocal:
    """The store lacks the requested local features.

    Attributes:
        store: The store.
        rows: Table row of each row of the store, (N,).
        local: The features to extract.
    """

    store: DescriptorStore
    rows: NDArray[np.int64]
    local: LocalExtraction


@dataclass(frozen=True)
class Resume:
    """An extraction with the same settings was stopped; `missing` where it extends a store."""

    work: PartialStore
    missing: MissingPhotos | None


@dataclass(frozen=True)
class Complete:
    """The store has the same settings and all photos of the table."""

    message: str


State = Fresh | Extend | AddLocal | Resume | Complete


def look_at_output(plan: Plan) -> State:
    """Compare the output with the plan. Nothing is written.

    Raises:
        UserError: The output, or a stopped extraction, has different settings, or the output is
            something other than a store.
    """
    missing: MissingPhotos | None = None
    store = _existing_store(plan)
    if store is not None:
        lacking = lacking_local(store, plan.local)
        if lacking is not None:
            return AddLocal(store, table_rows(store, plan.extraction.table), lacking)
        if not plan.add:
            return Complete(f"{plan.output} is up to date (same settings); nothing to do.")
        missing = MissingPhotos.diff(plan.extraction.table, store)
        if not len(missing.rows):
            return Complete(f"{plan.output} is up to date (all photos present); nothing to do.")
        check_no_stopped_local(store)
    staging = staging_folder(plan.output)
    recorded = recorded_settings(staging)
    if recorded is None:
        return Fresh() if missing is None else Extend(missing)
    start_over = "pass overwrite=true" if missing is None else "remove that folder"
    check_same_settings(
        UNRECORDED | recorded,
        work_settings(plan, missing),
        f"{staging} contains a stopped extraction",
        f"Use the same settings to resume, or {start_over} to start over.",
    )
    return Resume(PartialStore(staging), missing)


def _existing_store(plan: Plan) -> DescriptorStore | None:
    """Open the finished store at the output, unless it is to be overwritten."""
    if plan.overwrite or not (plan.output / META).is_file():
        check_can_write(plan.output, plan.overwrite, marker=META)
        return None
    store = DescriptorStore.open(plan.output)
    requested, recorded = plan.signature, UNRECORDED | store.meta
    ignored = ("table",) if plan.add else ()
    advice = "Choose another output, or pass overwrite=true to replace it"
    if differences(recorded, requested, ignored).keys() == {"table"}:
        advice += ", or add=true to add the missing photos"
    check_same_settings(recorded, requested, f"{plan.output} already exists", f"{advice}.", ignored)
    return store


def work_settings(plan: Plan, missing: MissingPhotos | None) -> dict[str, Any]:
    """Return the settings that a stopped extraction records: the store's and its own."""
    return plan.signature | {
        "batch_size": plan.extraction.batch_size,
        "adds_to": None if missing is None else digest_of_files(missing.store.path / IDS),
        # A store that is extended has its local features already.
        **(recorded_local(plan.local) if missing is None else {}),
    }
