"""What one rule makes of verified pairs: kept photos, findings and the audit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmark.clean.audit import Overlap, find_overlap
from landmark.clean.findings import (
    Mislabels,
    Places,
    likely_mislabels,
    near_duplicates,
    several_places,
)
from landmark.clean.pairs import Pairs
from landmark.clean.selection import Photos, Rule, Selection, select

_IDENTICAL = 1 - 1e-6  # cosine, but for rounding


@dataclass(frozen=True, eq=False)
class Result:
    """A rule applied to the pairs of a cleaning.

    Attributes:
        pairs: The verified pairs.
        photos: What the search knows of the photos.
        selection: What the rule keeps.
        duplicates: Pairs of near-duplicates.
        mislabels: Photos that probably show another landmark.
        places: Landmarks whose photos form several groups.
        audit_pairs: Verified pairs with a test set; None without an audit.
        overlap: What they have in common; None without an audit.
    """

    pairs: Pairs
    photos: Photos
    selection: Selection
    duplicates: NDArray[np.intp]
    mislabels: Mislabels
    places: Places
    audit_pairs: Pairs | None = None
    overlap: Overlap | None = None

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        photos: Photos,
        rule: Rule,
        min_cosine: float,
        geometry: bool = True,
        audit: Pairs | None = None,
    ) -> "Result":
        """Apply a rule.

        Args:
            pairs: The verified pairs.
            photos: What the search knows of the photos.
            rule: The thresholds.
            min_cosine: Least cosine of near-duplicates.
            geometry: Whether the pairs were verified.
            audit: Verified pairs with a test set.
        """
        selection = select(pairs, photos, rule, geometry)
        overlap = None
        if audit is not None:
            is_verified = selection.verifies(audit)
            overlap = find_overlap(
                audit, photos.labels, is_verified, min_cosine, rule.min_neighbours, geometry
            )
        return cls(
            pairs,
            photos,
            selection,
            near_duplicates(pairs, min_cosine, selection.is_verified if geometry else None),
            likely_mislabels(pairs, photos, selection),
            several_places(pairs, photos, selection),
            audit,
            overlap,
        )

    def summary(self) -> str:
        """Say what the rule keeps and what else the pairs show, one fact a line."""
        selection, labels = self.selection, self.photos.labels
        lines = []
        if selection.limit:
            same = self.photos.is_same(self.pairs)
            verified = int((selection.is_verified & same).sum())
            lines.append(
                f"{selection.limit}: {verified:,} of {int(same.sum()):,} pairs of one landmark "
                "are verified"
            )
        kept = selection.is_kept
        landmarks = len(np.unique(labels[labels >= 0]))
        lines.append(
            f"kept {int(kept.sum()):,} of {len(labels):,} photos, "
            f"{len(np.unique(labels[kept])):,} of {landmarks:,} landmarks"
        )
        identical = int((self.pairs.cosine[self.duplicates] >= _IDENTICAL).sum())
        copies = f" ({identical:,} of identical photos)" if identical else ""
        lines.append(
            f"{len(self.mislabels.rows):,} likely mislabels, {len(self.duplicates):,} pairs of "
            f"near-duplicates{copies}, {len(self.places.labels):,} landmarks that look like "
            "several places"
        )
        if self.overlap is not None:
            overlap = self.overlap
            lines.append(
                f"audit: {len(overlap.duplicates):,} near-duplicates and "
                f"{len(overlap.same_place):,} pairs of the same place, of "
                f"{int(overlap.photos.sum()):,} train and "
                f"{overlap.test_photos:,} test photos; {len(overlap.landmarks):,} landmarks of "
                "train are in the test set"
            )
        return "\n".join(lines)
