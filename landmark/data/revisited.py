"""Revisited Oxford and Paris (Radenović et al., arXiv 1803.11285)."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.artifact.revisited_file import RevisitedFile
from landmark.data.image_table import BOX_COLUMNS, ImageTable
from landmark.data.source import Source
from landmark.error import UserError


class ROxford5k(Source):
    """70 queries, each cropped to its box, and 4,993 gallery photos; no train photos.

    The root contains the ground truth and `jpg/<name>.jpg`. The names are the ids.

    Args:
        root: Folder of the set.
        ground_truth: Published pickle, absolute or relative to the root.
    """

    def __init__(self, root: str | Path, ground_truth: str | Path = "gnd_roxford5k.pkl") -> None:
        self.root = Path(root)
        self.file = self.root / ground_truth

    @cached_property
    def _content(self) -> RevisitedFile:
        if not self.file.is_file():
            raise UserError(f"{self.file} does not exist. Pass data.root or data.ground_truth.")
        return RevisitedFile.open(self.file, with_photos=True)

    def read(self, split: str | None = None) -> ImageTable:
        """Return queries, gallery, or both, with the queries' ground truth."""
        if split not in (None, "query", "gallery"):
            raise UserError(
                f"{self.root} has no {split} photos. Pass split=query or split=gallery."
            )
        content, parts = self._content, []
        if split in (None, "query"):
            boxes = dict(zip(BOX_COLUMNS, content.boxes.T, strict=True))
            parts.append(self._named_rows(content.query_ids, "qimlist", "query").assign(**boxes))
        if split in (None, "gallery"):
            parts.append(self._named_rows(content.gallery_ids, "imlist", "gallery"))
        return ImageTable(self.root, pd.concat(parts, ignore_index=True), content.queries)

    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Raise: there are no landmarks to validate with; score with the ground truth instead."""
        raise UserError(
            f"{self.root} has no landmarks to train or validate with. Choose other data."
        )

    def _named_rows(self, listed_names: Sequence[str], key: str, split: str) -> pd.DataFrame:
        names = pd.Series(listed_names, dtype=str)
        if not len(names):
            raise UserError(f"{self.file}: {key} is empty. Download the file again.")
        paths = "jpg/" + names + ".jpg"
        if not (self.root / paths[0]).is_file():
            raise UserError(f"{self.root / paths[0]} does not exist. Check data.root.")
        return pd.DataFrame({"id": names, "path": paths, "split": split})


class RParis6k(ROxford5k):
    """70 queries, each cropped to its box, and 6,322 gallery photos; no train photos.

    Args:
        root: Folder of the set, with the layout of `ROxford5k`.
        ground_truth: Published pickle, absolute or relative to the root.
    """

    def __init__(self, root: str | Path, ground_truth: str | Path = "gnd_rparis6k.pkl") -> None:
        super().__init__(root, ground_truth)
