"""From a plan to a finished store: begun or gone on with, shared out, put in its place."""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from tqdm import tqdm

from landmark.artifact.description import IDS, ids_frame, meta_text
from landmark.artifact.unfinished import UnfinishedStore
from landmark.artifact.unfinished_files import clear
from landmark.data.image_table import BOX_COLUMNS
from landmark.disk.differences import check_same_settings
from landmark.disk.digest import digest_of_files
from landmark.disk.lock import locked, staging_folder
from landmark.error import UserError
from landmark.extract.adding import Addition
from landmark.extract.extraction import Extraction
from landmark.extract.group import Group
from landmark.extract.plan import Plan
from landmark.extract.processes import run_in_processes


def store_descriptors(plan: Plan, group: Group) -> None:
    """Makes the store, or goes on with it, or finds that it is there; says so.

    Args:
        plan: what is asked for.
        group: the processes of a launcher, each of which calls this.

    Raises:
        UserError: a setting differs from those of what is there, a photo cannot be read, or the
            disk is full.
    """
    plan.check_devices(group)
    if group.is_first:
        line = _lead(plan, group)
        print(line, flush=True)
    else:
        _follow(plan, group)


def _lead(plan: Plan, group: Group) -> str:
    # Where no killed process left anything, a finished store is only looked at: the disk may be
    # one that cannot be written.
    if not staging_folder(plan.output).exists() and (line := plan.nothing_to_do()):
        group.told(None)
        return line
    with locked(plan.output) as folder:
        if plan.overwrite:
            clear(folder)
        if line := plan.nothing_to_do():
            clear(folder)
            group.told(None)
            return line
        addition = plan.addition()
        extraction = plan.extraction
        if addition is not None:
            extraction = extraction.only(addition.rows)
        work = UnfinishedStore.begin(
            folder,
            plan.output,
            len(extraction.table),
            plan.dim,
            plan.dtype,
            plan.compared
            | {
                "batch_size": extraction.batch_size,
                "adds_to": digest_of_files(plan.output / IDS) if addition else None,
            },
            adds_to=addition.store if addition else None,
        )
        with _kept_where_stopped(work, len(extraction.table)):
            group.told((plan.compared, addition.rows if addition else None))
            _describe(plan, extraction, work, group)
            if work.done < len(extraction.table) and group.size > group.local_size:
                raise UserError(
                    f"{plan.output}: its file system does not share mapped files between machines; "
                    "the same command on one machine goes on"
                )
            _finish(plan, extraction, addition, work)
        group.wait()
    return f"wrote {plan.output}"


def _follow(plan: Plan, group: Group) -> None:
    begun = group.told(None)
    if begun is None:
        return
    settings, rows = begun
    check_same_settings(settings, plan.compared, f"{plan.output}: process 0 begins", "")
    extraction = plan.extraction if rows is None else plan.extraction.only(rows)
    _describe(plan, extraction, UnfinishedStore(staging_folder(plan.output)), group)
    group.wait()


@contextmanager
def _kept_where_stopped(work: UnfinishedStore, photos: int) -> Iterator[None]:
    """Says what an extraction that fails leaves; nothing where nothing was described."""
    if work.done:
        print(f"goes on: {work.done:,} of {photos:,} photos are described already", flush=True)
    try:
        yield
    except BaseException:
        if work.done > len(work.left_out):
            print(f"stopped: {work.done:,} of {photos:,} photos are described", flush=True)
        else:
            clear(work.folder)
        raise


def _describe(plan: Plan, extraction: Extraction, work: UnfinishedStore, group: Group) -> None:
    """Works off what remains: a share of it under a launcher, else all, alone or with others."""
    remaining = work.remaining(extraction.batches())[group.rank :: group.size]
    group.wait()  # until everyone has looked: the first marks would change what remains
    shares = [remaining[number :: plan.devices] for number in range(plan.devices)]
    with tqdm(
        total=sum(map(len, remaining)),
        desc="describe",
        unit="photo",
        disable=None if group.is_first else True,
    ) as progress:
        if group.size == 1 and len(remaining) > 1 < plan.devices:
            run_in_processes(
                extraction, work.folder, [share for share in shares if share], progress.update
            )
        else:
            extraction.run(
                work,
                remaining,
                progress.update,
                number=group.local_rank,
                of=group.local_size,
                embedder=plan.embedder,
            )
    group.wait()


def _finish(
    plan: Plan, extraction: Extraction, addition: Addition | None, work: UnfinishedStore
) -> None:
    table, output, settings = extraction.table, plan.output, plan.settings
    root = str(table.root.resolve())
    # Where the photos lie, so that a page about a ranking can show them.
    places = table.rows[[name for name in ("path", *BOX_COLUMNS) if name in table.rows]]
    rows = ids_frame(output, table.rows["id"].to_numpy(), table.landmark_ids)
    rows = rows.join(places.set_axis(rows.index))
    broken = table.rows.iloc[work.left_out][["id", "path"]]
    skipped = pd.concat([table.skipped[["id", "path"]], broken], ignore_index=True)
    if len(skipped):
        print(f"skipped {len(skipped):,} photos that cannot be read, listed in skipped.csv")
    if len(broken) == len(rows) and addition is None:
        raise UserError(f"{table.root}: none of the {len(rows):,} photos can be read")
    if addition is not None:
        settings = settings | {"table": addition.tables(settings["table"])}
        rows = addition.before(rows, root)
        present = rows.drop(index=len(addition.store) + work.left_out)
        skipped = addition.skipped(skipped, present)
    work.finish(
        output,
        rows,
        meta_text(plan.dtype, settings | {"root": root}),
        skipped,
        plan.overwrite or addition is not None,
    )
