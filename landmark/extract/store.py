"""Write a descriptor store: claim the output, begin or resume, describe, finish."""

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from landmark.artifact.descriptors import DescriptorStore, id_rows, meta_text
from landmark.artifact.local_features import FOLDER, local_names
from landmark.artifact.local_parts import LocalParts, PartialLocal
from landmark.artifact.partial_store import PartialStore, clear
from landmark.data.image_table import BOX_COLUMNS
from landmark.disk.differences import check_same_settings
from landmark.disk.lock import locked, staging_folder
from landmark.error import UserError
from landmark.extract.extraction import Batches, Extraction
from landmark.extract.local import LocalExtraction
from landmark.extract.local_store import (
    check_space,
    merge_local,
    notice_without_features,
    with_pool,
    writing_local,
)
from landmark.extract.plan import (
    AddLocal,
    Complete,
    Extend,
    Fresh,
    MissingPhotos,
    Plan,
    Resume,
    State,
    look_at_output,
    work_settings,
)
from landmark.processes import barrier, broadcast, launch, notice, rank, start, world_size

Work = PartialStore | PartialLocal


@dataclass(frozen=True)
class _Job:
    """What rank 0 has begun and all ranks do.

    Attributes:
        signature: Settings of rank 0.
        rows: Table rows of the photos. None means all.
        local: Local features to extract.
        store: The store that gets only local features.
        work: Where the ranks write.
    """

    signature: dict[str, Any]
    rows: NDArray[np.int64] | None
    local: tuple[LocalExtraction, ...]
    store: Path | None
    work: Work

    def extraction(self, plan: Plan) -> Extraction:
        """Return the extraction of the photos and local features."""
        extraction = plan.extraction if self.rows is None else plan.extraction.subset(self.rows)
        return replace(extraction, local=self.local, store=self.store)


def write_store(plan: Plan) -> str:
    """Write, resume or extend the store, or leave it unchanged if it is complete.

    Under a launcher every process calls this. Rank 0 prepares and finishes the store; all ranks
    describe photos.

    Returns:
        The final line to print.

    Raises:
        UserError: A setting differs from those of the existing store, a photo cannot be read, or
            the disk is full.
    """
    plan.check_devices()
    if rank() > 0:
        return _follow(plan)
    with _claimed(plan) as state:
        message = _written(plan, state)
        broadcast(None)
    return message


def _written(plan: Plan, state: State) -> str:
    """Do what the output lacks; return the final line to print."""
    if isinstance(state, Complete):
        return state.message
    if not isinstance(state, AddLocal):
        return _write(plan, state)
    message = _add_local(plan, state)
    following = look_at_output(plan)  # photos to add
    return message if isinstance(following, Complete) else _written(plan, following)


def _write(plan: Plan, state: Fresh | Extend | Resume) -> str:
    """Describe the photos and publish the store."""
    missing = state.missing
    rows = None if missing is None else missing.rows
    extraction = plan.extraction if rows is None else plan.extraction.subset(rows)
    work = _begin(plan, len(extraction.table), state)
    with _kept_if_stopped(work, len(extraction.table)):
        local = tuple(
            with_pool(
                one,
                extraction,
                plan.embedder,
                work.parts(one.name),
                None if missing is None else missing.store.path / FOLDER / one.name,
            )
            for one in plan.local
        )
        job = _Job(plan.signature, rows, local, None, work)
        extraction = job.extraction(plan)
        broadcast(job)
        _describe(plan, extraction, work)
        _finish(plan, extraction, work, missing)
    barrier()
    return f"wrote {plan.output}"


def _add_local(plan: Plan, state: AddLocal) -> str:
    """Extract local features of the photos of an existing store."""
    store, local = state.store, state.local
    why = "; the network runs for its feature maps" if local.from_maps else ""
    print(f"{store.path} has its descriptors: only local={local.name} is extracted{why}.")
    with writing_local(store, local) as writer:
        work = PartialLocal(writer.parts, len(store))
        if work.done:
            done = f"{work.done:,} of {len(store):,} photos"
            print(f"Resuming: local features of {done} already extracted.", flush=True)
        check_space([local], len(store) - work.done, store.path)
        with _kept_if_stopped(work, len(store)):
            photos = plan.extraction.subset(state.rows)
            local = with_pool(local, photos, plan.embedder, work.folder)
            job = _Job(plan.signature, state.rows, (local,), store.path, work)
            broadcast(job)
            _describe(plan, job.extraction(plan), work)
            parts = LocalParts(work.folder, work.count)
            merge_local(writer, local, parts, np.arange(work.count))
    notice_without_features(store, local)
    barrier()
    return f"wrote {store.path / FOLDER / local.name}"


@contextmanager
def _claimed(plan: Plan) -> Iterator[State]:
    """Lock the output for the block and compare it with the plan; complete stores need no lock."""
    # Look without a lock first: a complete store may be on a read-only disk.
    if not staging_folder(plan.output).exists():
        state = look_at_output(plan)
        if isinstance(state, Complete):
            yield state
            return
    with locked(plan.output) as staging:
        if plan.overwrite:
            clear(staging)
        state = look_at_output(plan)  # another process may have changed it before the lock
        if isinstance(state, Complete):
            clear(staging)
        yield state


def _follow(plan: Plan) -> str:
    """Describe this rank's shards of the extractions that rank 0 begins."""
    while True:
        job: Any = broadcast(None)
        if job is None:
            return ""
        check_same_settings(
            job.signature,
            plan.signature,
            f"{plan.output}: rank 0 began",
            "Start all ranks with the same settings.",
        )
        _describe(plan, job.extraction(plan), job.work)
        barrier()


def _begin(plan: Plan, count: int, state: Fresh | Extend | Resume) -> PartialStore:
    """Open the partial store to resume, or create one; print which."""
    missing = state.missing
    if missing is not None:
        print(f"Adding {count:,} photos to the {len(missing.store):,} of {plan.output}.")
        if missing.not_in_table:
            print(f"{missing.not_in_table:,} of its photos are not in the table; they are kept.")
        recorded = [one.name for one in plan.local if not one.is_requested]
        if recorded:
            print(f"Their local features are extracted as recorded: {', '.join(recorded)}.")
    if isinstance(state, Resume):
        photos = f"{state.work.done:,} of {count:,} photos"
        print(f"Resuming: {photos} already extracted.", flush=True)
        return state.work
    if plan.overwrite:
        removed = set(local_names(plan.output)) - {one.name for one in plan.local}
        if removed:
            notice(
                f"overwrite=true also removes the local features {', '.join(sorted(removed))} of "
                f"{plan.output}. Pass local= to extract them again."
            )
    check_space(plan.local, count, plan.output)
    return PartialStore.create(
        staging_folder(plan.output),
        plan.output,
        count,
        plan.dim,
        plan.dtype,
        work_settings(plan, missing),
        extends=None if missing is None else missing.store,
    )


@contextmanager
def _kept_if_stopped(work: Work, photos: int) -> Iterator[None]:
    """On failure print how much was extracted; remove the partial store if it is empty."""
    try:
        yield
    except BaseException:
        skipped = len(work.skipped) if isinstance(work, PartialStore) else 0
        if work.done > skipped:
            print(f"Stopped: {work.done:,} of {photos:,} photos extracted.", flush=True)
        elif isinstance(work, PartialStore):
            clear(work.folder)
        raise


def _describe(plan: Plan, extraction: Extraction, work: Work) -> None:
    """Describe this rank's share of the remaining batches, in this process or in workers."""
    remaining = work.remaining(extraction.batches())[rank() :: world_size()]
    barrier()  # all ranks must read the remaining batches before any is marked done
    with tqdm(
        total=sum(map(len, remaining)),
        desc="extract",
        unit="photo",
        disable=True if rank() else None,
    ) as progress:
        if world_size() == 1 and plan.devices > 1 and len(remaining) > 1:
            shares = [remaining[index :: plan.devices] for index in range(plan.devices)]
            _describe_in_workers(extraction, work, [share for share in shares if share], progress)
        else:
            extraction.run(
                work,
                remaining,
                progress.update,
                local_rank=launch().local_rank,
                local_world_size=launch().local_world_size,
                embedder=plan.embedder,
            )
    barrier()


def _describe_in_workers(
    extraction: Extraction, work: Work, shares: list[Batches], progress: tqdm
) -> None:
    # Number of photos described by each worker. Each writes only its own entry, without a lock.
    described = get_context("spawn").RawArray("q", len(shares))
    start(
        _describe_share,
        [(extraction, work, share, index, described) for index, share in enumerate(shares)],
        poll=lambda: progress.update(sum(described) - progress.n),
    )


def _describe_share(
    extraction: Extraction,
    work: Work,
    share: Batches,
    index: int,
    described: MutableSequence[int],
) -> None:
    count = len(described)
    torch.set_num_threads(max(1, torch.get_num_threads() // count))

    def report(photos: int) -> None:
        described[index] += photos

    extraction.run(work, share, report, local_rank=index, local_world_size=count)


def _finish(
    plan: Plan, extraction: Extraction, work: PartialStore, missing: MissingPhotos | None
) -> None:
    """Write ids, metadata and the skipped photos, and move the store into place."""
    table, output, settings = extraction.table, plan.output, plan.settings
    if work.done < len(table) and world_size() > launch().local_world_size:
        raise UserError(
            f"{output}: its file system does not share memory-mapped files between machines. Run "
            "the same command on one machine to resume."
        )
    root = str(table.root.resolve())
    # Paths and boxes, so that reports can show the photos.
    files = table.rows[[name for name in ("path", *BOX_COLUMNS) if name in table.rows]]
    rows = id_rows(output, table.rows["id"].to_numpy(), table.landmark_ids)
    rows = rows.join(files.set_axis(rows.index))
    unreadable = table.rows.iloc[work.skipped][["id", "path"]]
    skipped = pd.concat([table.skipped[["id", "path"]], unreadable], ignore_index=True)
    if len(skipped):
        print(f"Skipped {len(skipped):,} photos that cannot be read, listed in skipped.csv.")
    if len(unreadable) == len(rows) and missing is None:
        raise UserError(
            f"{table.root}: none of the {len(rows):,} photos can be read. Pass another data.root."
        )
    if missing is not None:
        tables = [*missing.store.table_digests, settings["table"]]
        settings = settings | {"table": tables}
        rows = missing.prepend_existing(rows, root)
        described = rows.drop(index=len(missing.store) + work.skipped)
        skipped = missing.skipped(skipped, described)
    meta = meta_text(plan.dtype, settings | {"root": root})

    def write_local(store: DescriptorStore) -> None:
        for one in extraction.local:
            existing = () if missing is None else missing.store.local(one.name)
            parts = LocalParts(work.parts(one.name), len(table))
            with writing_local(store, one) as writer:
                merge_local(writer, one, parts, work.described, existing)
            notice_without_features(store, one)

    work.finish(output, rows, meta, skipped, plan.overwrite or missing is not None, write_local)
