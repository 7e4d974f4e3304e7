"""Revisited Oxford and Paris (Radenović et al., arXiv 1803.11285)."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landmark.artifact.restricted_pickle import load_pickle
from landmark.data.image_table import BOX_COLUMNS, ImageTable
from landmark.data.source import Source
from landmark.error import UserError

_GROUND_TRUTH = ("bbx", "easy", "hard", "junk")


class ROxford5k(Source):
    """70 queries, each cut to its box, and 4,993 gallery photos; no train photos.

    Below the root: the ground truth and `jpg/<name>.jpg`. The names are the ids.

    Args:
        root: The folder.
        ground_truth: The pickle, absolute or below the root.
    """

    def __init__(self, root: str | Path, ground_truth: str | Path = "gnd_roxford5k.pkl") -> None:
        self.root = Path(root)
        self.file = self.root / ground_truth

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        if not self.file.is_file():
            raise UserError(f"{self.file}: no such file; set data.root or data.ground_truth")
        content = load_pickle(self.file)
        if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= content.keys():
            raise UserError(f"{self.file}: must hold imlist, qimlist and gnd")
        truth = content["gnd"]
        if len(truth) != len(content["qimlist"]) or any(
            not set(_GROUND_TRUTH) <= entry.keys() for entry in truth
        ):
            raise UserError(f"{self.file}: gnd must hold bbx, easy, hard, junk for each query")
        return content

    def read(self, split: str | None = None) -> ImageTable:
        """Return queries, gallery, or both; all with the queries' ground truth."""
        if split not in (None, "query", "gallery"):
            raise UserError(
                f"{self.root} has no {split} photos. Pass split=query or split=gallery."
            )
        parts = []
        if split in (None, "query"):
            boxes = np.array([entry["bbx"] for entry in self._content["gnd"]], np.float64)
            rows = self._named_rows("qimlist", "query")
            parts.append(rows.assign(**dict(zip(BOX_COLUMNS, boxes.reshape(-1, 4).T, strict=True))))
        if split in (None, "gallery"):
            parts.append(self._named_rows("imlist", "gallery"))
        truth = [{key: entry[key] for key in _GROUND_TRUTH[1:]} for entry in self._content["gnd"]]
        return ImageTable(self.root, pd.concat(parts, ignore_index=True), truth)

    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Raise: there are no landmarks to validate with; score with the ground truth instead."""
        raise UserError(
            f"{self.root} has no landmarks to train or validate with. Choose other data."
        )

    def _named_rows(self, key: str, split: str) -> pd.DataFrame:
        names = pd.Series(self._content[key], dtype=str)
        if not len(names):
            raise UserError(f"{self.file}: {key} is empty. Download the file again.")
        paths = "jpg/" + names + ".jpg"
        if not (self.root / paths[0]).is_file():
            raise UserError(f"{self.root / paths[0]} does not exist. Check data.root.")
        return pd.DataFrame({"id": names, "path": paths, "split": split})


class RParis6k(ROxford5k):
    """70 queries, each cut to its box, and 6,322 gallery photos; no train photos.

    Args:
        root: The folder, with the layout of `ROxford5k`'s.
        ground_truth: The pickle, absolute or below the root.
    """

    def __init__(self, root: str | Path, ground_truth: str | Path = "gnd_rparis6k.pkl") -> None:
        super().__init__(root, ground_truth)
