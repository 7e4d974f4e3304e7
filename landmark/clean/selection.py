"""Thresholds: which pairs are verified, and which photos and landmarks are kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmark.clean.pairs import Pairs
from landmark.verify import threshold

# A photo agrees with its landmark only if no other one is more than twice as frequent around it.
_LEAST_OF_RIVAL = 0.5
FEWEST_KEPT = 2  # photos of a landmark


@dataclass(frozen=True)
class Rule:
    """The thresholds of a cleaning.

    Attributes:
        min_neighbours: A photo with this many verified neighbours of its landmark is kept.
        min_inliers: A pair with this many inliers is verified. None: a pair is verified if its
            score is above the threshold at `false_rate`.
        false_rate: Share of the pairs of different places that may be verified.
        min_agreement: A photo is kept too if its nearest neighbours agree with its landmark, see
            `Photos.agrees`. None: only verified neighbours count.
    """

    min_neighbours: int = 3
    min_inliers: int | None = None
    false_rate: float = 0.01
    min_agreement: float | None = None


@dataclass(frozen=True, eq=False)
class Photos:
    """N photos to clean.

    Attributes:
        labels: (N,) int32 number of each photo's landmark, -1 if unknown.
        agreement, rivals, rival_shares: (N,) see `Candidates`.
    """

    labels: NDArray[np.int32]
    agreement: NDArray[np.float32]
    rivals: NDArray[np.int32]
    rival_shares: NDArray[np.float32]

    def is_same(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Whether both photos of each pair have one landmark, (P,)."""
        return self.labels[pairs.a] == self.labels[pairs.b]

    def agrees(self, min_agreement: float) -> NDArray[np.bool_]:
        """Whether the nearest neighbours agree with each photo's landmark, (N,).

        At least the share `min_agreement` has its landmark, and no other landmark is more than
        twice as frequent among them.
        """
        with np.errstate(invalid="ignore"):
            is_enough = self.agreement >= min_agreement
            return is_enough & (self.agreement >= _LEAST_OF_RIVAL * self.rival_shares)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a rule keeps.

    Attributes:
        rule: The rule.
        threshold: Score above which a pair is verified; None with `min_inliers`, or without
            geometric verification.
        is_verified: (P,) bool.
        neighbours: (N,) int32 verified neighbours of the photo's own landmark.
        passes: (N,) bool, by the rule alone.
        is_kept: (N,) bool: passes, and so does another photo of the landmark.
    """

    rule: Rule
    threshold: float | None
    is_verified: NDArray[np.bool_]
    neighbours: NDArray[np.int32]
    passes: NDArray[np.bool_]
    is_kept: NDArray[np.bool_]

    @property
    def limit(self) -> str:
        """What verifies a pair, in words; "" without geometric verification."""
        if self.threshold is not None:
            return (
                f"score above {self.threshold:.2f} (false_rate={self.rule.false_rate:g} of the "
                "pairs of different landmarks)"
            )
        inliers = self.rule.min_inliers
        return "" if inliers is None else f"at least {inliers} inliers (min_inliers={inliers})"

    def verifies(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Whether each of other pairs, verified in the same way, shows the same place, (P,)."""
        return verified(pairs, self.rule.min_inliers, self.threshold)


def select(pairs: Pairs, photos: Photos, rule: Rule, geometry: bool = True) -> Selection:
    """Apply a rule to verified pairs.

    Args:
        pairs: The pairs.
        photos: Landmarks and agreement of the photos.
        rule: The thresholds.
        geometry: Whether the pairs were verified; otherwise only agreement counts.

    Raises:
        UserError: There are too few pairs of different landmarks for a threshold.
    """
    limit = None
    if geometry and rule.min_inliers is None:
        limit = threshold(null_scores(pairs, photos, rule.false_rate), rule.false_rate)
    is_verified = verified(pairs, rule.min_inliers if geometry else None, limit)
    counted = is_verified & photos.is_same(pairs)
    count = len(photos.labels)
    neighbours = np.bincount(pairs.a[counted], minlength=count)
    neighbours += np.bincount(pairs.b[counted], minlength=count)
    passes = neighbours >= rule.min_neighbours
    if rule.min_agreement is not None:
        passes |= photos.agrees(rule.min_agreement)
    passes &= photos.labels >= 0
    kept = np.bincount(photos.labels[passes], minlength=int(photos.labels.max(initial=0)) + 1)
    is_kept = passes & (kept[photos.labels] >= FEWEST_KEPT)
    return Selection(rule, limit, is_verified, neighbours.astype(np.int32), passes, is_kept)


def verified(pairs: Pairs, min_inliers: int | None, limit: float | None) -> NDArray[np.bool_]:
    """Whether each pair has the inliers, or a score above the limit; without either none, (P,)."""
    if min_inliers is not None:
        return pairs.inliers >= min_inliers
    return np.zeros(len(pairs), bool) if limit is None else pairs.scores > limit


def null_scores(pairs: Pairs, photos: Photos, false_rate: float) -> NDArray[np.float32]:
    """Return the scores of the pairs of different landmarks that set the threshold.

    The nearest photo of another landmark is often one of the same place with a wrong label: with a
    fifth of the labels wrong, more than a third of these pairs. Only pairs of photos count whose
    own landmark is the most frequent one of their nearest neighbours, unless these are too few for
    the rate: then all count, which only raises the threshold.

    Args:
        pairs: The pairs.
        photos: Landmarks and agreement of the photos.
        false_rate: Share of the pairs that may be verified.
    """
    across = np.flatnonzero(~photos.is_same(pairs))
    with np.errstate(invalid="ignore"):
        is_trusted = photos.agreement > photos.rival_shares
    trusted = across[is_trusted[pairs.a[across]] & is_trusted[pairs.b[across]]]
    return pairs.scores[trusted if len(trusted) * false_rate >= 1 else across]
