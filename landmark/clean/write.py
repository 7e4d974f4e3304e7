"""Write what a rule keeps into the output folder of a cleaning."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.artifact.folder import read_json, write_json
from landmark.clean.audit import exclusion_table
from landmark.clean.cleaning import Cleaning
from landmark.clean.folder import replacing
from landmark.clean.output import (
    AUDIT,
    CLEANED,
    EXCLUDE,
    FACTS,
    META,
    PHOTOS,
    REPORT,
    TABLE,
    kept_table,
    with_decisions,
    write_cleaned,
)
from landmark.clean.result import Result
from landmark.data.image_table import ImageTable
from landmark.processes import notice


@contextmanager
def writing_files(
    cleaning: Cleaning, result: Result, located: ImageTable | None = None
) -> Iterator[Path]:
    """Write the files of a rule, and yield the folder, to which pages may be added.

    The folder replaces the output when the block ends; the verified pairs stay.

    Args:
        cleaning: Inputs of the cleaning.
        result: What the rule keeps.
        located: Table with the paths of the photos. None means those of the store.

    Raises:
        UserError: `located` lacks a kept photo, or the disk is full.
    """
    train, kept = cleaning.train, result.selection.is_kept
    table = kept_table(train.store.rows, None if located is None else located.rows, kept)
    if "path" not in table:
        notice(
            f"{train.store.path} does not record the paths of the photos, so {TABLE} has none. "
            "Pass data= and data.root= to add them."
        )
    facts = pd.read_parquet(cleaning.output / PHOTOS, columns=FACTS)
    meta = read_json(cleaning.output / META)
    rewritten: tuple[str, ...] = (CLEANED, TABLE, PHOTOS, META, REPORT)
    if cleaning.test is not None:  # otherwise those of an earlier audit stay
        rewritten += (EXCLUDE, AUDIT)
    with replacing(cleaning.output, cleaning.staging, rewritten) as folder:
        write_cleaned(folder / CLEANED, train.store.ids[kept], train.labels[kept], train.names)
        table.to_parquet(folder / TABLE, index=False)
        decisions = with_decisions(
            facts, result.photos, result.selection, result.mislabels, train.names
        )
        decisions.to_parquet(folder / PHOTOS, index=False)
        if result.overlap is not None and result.audit_pairs is not None:
            assert cleaning.test is not None
            exclusion_table(
                result.overlap,
                result.audit_pairs,
                train.labels,
                train.names,
                train.store.ids,
                cleaning.test.ids,
            ).to_csv(folder / EXCLUDE, index=False)
        meta["rule"] = {**asdict(result.selection.rule), "threshold": result.selection.threshold}
        meta["kept"] = {
            "photos": int(kept.sum()),
            "landmarks": len(np.unique(train.labels[kept])),
            "of_photos": len(kept),
        }
        write_json(folder / META, meta)
        yield folder
