"""The files of a cleaning: cleaned.csv, table.parquet, photos.parquet, meta.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark import __version__
from landmark.artifact.folder import damage
from landmark.clean.candidates import Candidates
from landmark.clean.findings import Mislabels
from landmark.clean.selection import Photos, Selection
from landmark.error import UserError

CLEANED, TABLE, PAIRS, PHOTOS = "cleaned.csv", "table.parquet", "pairs.parquet", "photos.parquet"
META, REPORT, EXCLUDE, AUDIT = "meta.json", "report.html", "exclude.csv", "audit.html"
AUDIT_PAIRS = "audit_pairs.parquet"
# Columns of photos.parquet that no threshold changes.
FACTS = ["id", "landmark_id", "agreement", "rival", "rival_share"]
SCHEMA = 1


def check_ids_for_lists(ids: NDArray[np.str_]) -> None:
    """Check that ids can be listed in cleaned.csv, separated by blanks.

    Raises:
        UserError: An id contains a blank; names the first.
    """
    has_blank = pd.Series(ids, dtype="str").str.contains(r"\s", regex=True).to_numpy(bool)
    if has_blank.any():
        raise UserError(
            f"the id {str(ids[has_blank.argmax()])!r} contains a blank, which separates the ids of "
            f"{CLEANED}. Rename it and extract again."
        )


def write_cleaned(
    file: Path, ids: NDArray[np.str_], labels: NDArray[np.int32], names: NDArray[np.str_]
) -> None:
    """Write `landmark_id,images` as GLDv2-clean was published: ids separated by blanks.

    Args:
        file: File to write.
        ids: Ids of the kept photos, in the order of the store.
        labels: Number of each one's landmark.
        names: Landmark of each number; the rows of the file are in their order.
    """
    order = np.argsort(labels, kind="stable")
    numbers, starts = np.unique(labels[order], return_index=True)
    groups = np.split(ids[order], starts[1:]) if len(order) else []
    images = [" ".join(group.tolist()) for group in groups]
    pd.DataFrame({"landmark_id": names[numbers], "images": images}).to_csv(file, index=False)


def kept_table(
    rows: pd.DataFrame, located: pd.DataFrame | None, is_kept: NDArray[np.bool_]
) -> pd.DataFrame:
    """Return the image table of the kept photos: those of data=, else those of the store.

    Args:
        rows: Rows of the store, with `id` and `landmark_id`.
        located: Table of the same photos with their paths, in any order. None means that the store
            has the paths.
        is_kept: (N,) bool.
    """
    kept = rows[is_kept].reset_index(drop=True)
    if located is not None:
        kept = kept[["id", "landmark_id"]].merge(
            located.drop(columns=["landmark_id", "split"], errors="ignore"), on="id", how="left"
        )
        if kept["path"].isna().any():
            missing = kept.loc[kept["path"].isna(), "id"]
            raise UserError(
                f"data= lacks {len(missing):,} of the {len(kept):,} kept photos, such as "
                f"{missing.iloc[0]}. Pass the data= that the train store was extracted from."
            )
    return kept.assign(split="train")


def facts_table(rows: pd.DataFrame, found: Candidates, names: NDArray[np.str_]) -> pd.DataFrame:
    """Return what the search knows of each photo, which every rule reads."""
    rivals = names[found.rivals].astype(object)
    rivals[found.rivals < 0] = None
    return rows[["id", "landmark_id"]].assign(
        agreement=found.agreement, rival=rivals, rival_share=found.rival_shares
    )


def with_decisions(
    facts: pd.DataFrame,
    photos: Photos,
    selection: Selection,
    mislabels: Mislabels,
    names: NDArray[np.str_],
) -> pd.DataFrame:
    """Add to the facts of each photo what the rule decided, and why."""
    likely = np.full(len(facts), None, object)
    likely[mislabels.rows] = names[mislabels.labels]
    return facts.assign(
        verified=selection.neighbours,
        kept=selection.is_kept,
        reason=reasons(photos, selection),
        likely_landmark_id=likely,
    )


def reasons(photos: Photos, selection: Selection) -> NDArray[np.object_]:
    """Return why each photo is kept or thrown out, (N,)."""
    by_neighbours = selection.neighbours >= selection.rule.min_neighbours
    return np.select(
        [
            photos.labels < 0,
            selection.is_kept & by_neighbours,
            selection.is_kept,
            selection.passes,
        ],
        ["no landmark", "verified", "nearest neighbours agree", "only photo kept of its landmark"],
        "too little agrees with its landmark",
    ).astype(object)


def read_facts(file: Path, ids: NDArray[np.str_], names: NDArray[np.str_]) -> Photos:
    """Read the facts of the photos of a store.

    Raises:
        UserError: The file is damaged or of other photos.
    """
    with damage(file, "Pass overwrite=true to verify the pairs again."):
        frame = pd.read_parquet(file)
        if frame["id"].to_numpy(str).tolist() != ids.tolist():
            raise ValueError("it has other photos")
        position = pd.Index(names)
        return Photos(
            position.get_indexer(pd.Index(frame["landmark_id"].fillna(""))).astype(np.int32),
            frame["agreement"].to_numpy(np.float32),
            position.get_indexer(pd.Index(frame["rival"])).astype(np.int32),
            frame["rival_share"].to_numpy(np.float32),
        )


def new_meta(**parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of meta.json."""
    return {"schema": SCHEMA, "version": __version__, **parts}
