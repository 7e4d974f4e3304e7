"""Write a descriptor store: claim the output, begin or resume, describe, finish."""

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from landmark.artifact.descriptors import id_rows, meta_text
from landmark.artifact.partial_store import PartialStore, clear
from landmark.data.image_table import BOX_COLUMNS
from landmark.disk.differences import check_same_settings
from landmark.disk.lock import locked, staging_folder
from landmark.error import UserError
from landmark.extract.extraction import Batches, Extraction
from landmark.extract.plan import (
    Complete,
    Extend,
    Fresh,
    MissingPhotos,
    Plan,
    Resume,
    look_at_output,
    work_settings,
)
from landmark.processes import barrier, broadcast, launch, rank, start, world_size


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
        if isinstance(state, Complete):
            broadcast(None)
            return state.message
        missing = state.missing
        extraction = plan.extraction if missing is None else plan.extraction.subset(missing.rows)
        work = _begin(plan, extraction, state)
        with _kept_if_stopped(work, len(extraction.table)):
            broadcast((plan.signature, None if missing is None else missing.rows))
            _describe(plan, extraction, work)
            _finish(plan, extraction, work, missing)
        barrier()
    return f"wrote {plan.output}"


@contextmanager
def _claimed(plan: Plan) -> Iterator[Fresh | Extend | Resume | Complete]:
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
    """Describe this rank's shard of the extraction that rank 0 began."""
    begun: Any = broadcast(None)
    if begun is not None:
        signature, rows = begun
        check_same_settings(
            signature,
            plan.signature,
            f"{plan.output}: rank 0 began",
            "Start all ranks with the same settings.",
        )
        extraction = plan.extraction if rows is None else plan.extraction.subset(rows)
        _describe(plan, extraction, PartialStore(staging_folder(plan.output)))
        barrier()
    return ""


def _begin(plan: Plan, extraction: Extraction, state: Fresh | Extend | Resume) -> PartialStore:
    """Open the partial store to resume, or create one; print which."""
    missing = state.missing
    if missing is not None:
        count = len(missing.store)
        print(f"Adding {len(missing.rows):,} photos to the {count:,} of {plan.output}.")
        if missing.not_in_table:
            print(f"{missing.not_in_table:,} of its photos are not in the table; they are kept.")
    if isinstance(state, Resume):
        photos = f"{state.work.done:,} of {len(extraction.table):,} photos"
        print(f"Resuming: {photos} already extracted.", flush=True)
        return state.work
    return PartialStore.create(
        staging_folder(plan.output),
        plan.output,
        len(extraction.table),
        plan.dim,
        plan.dtype,
        work_settings(plan, missing),
        extends=None if missing is None else missing.store,
    )


@contextmanager
def _kept_if_stopped(work: PartialStore, photos: int) -> Iterator[None]:
    """On failure print how much was extracted; remove the partial store if it is empty."""
    try:
        yield
    except BaseException:
        if work.done > len(work.skipped):
            print(f"Stopped: {work.done:,} of {photos:,} photos extracted.", flush=True)
        else:
            clear(work.folder)
        raise


def _describe(plan: Plan, extraction: Extraction, work: PartialStore) -> None:
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
    extraction: Extraction, work: PartialStore, shares: list[Batches], progress: tqdm
) -> None:
    # Number of photos described by each worker. Each writes only its own entry, without a lock.
    described = get_context("spawn").RawArray("q", len(shares))
    start(
        _describe_share,
        [(extraction, work.folder, share, index, described) for index, share in enumerate(shares)],
        poll=lambda: progress.update(sum(described) - progress.n),
    )


def _describe_share(
    extraction: Extraction,
    staging: Path,
    share: Batches,
    index: int,
    described: MutableSequence[int],
) -> None:
    count = len(described)
    torch.set_num_threads(max(1, torch.get_num_threads() // count))

    def report(photos: int) -> None:
        described[index] += photos

    extraction.run(PartialStore(staging), share, report, local_rank=index, local_world_size=count)


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
    work.finish(output, rows, meta, skipped, plan.overwrite or missing is not None)
