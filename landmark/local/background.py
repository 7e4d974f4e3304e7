"""The background pool: local features of other photos, which show what is common to all photos."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from landmark.artifact.folder import check_schema, damage
from landmark.artifact.local_features import LocalFeatures
from landmark.disk.atomic import atomic_file
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError
from landmark.settings import Seed, check_value, checked
from landmark.verify.matching import unit_rows

SCHEMA = 1
_COPY = 0.999  # cosine of two descriptors of the same pixels, after rounding
# Share of the pool, nearest by the global descriptors, that may show the same place. AUC of margins
# on 1,500 pairs: without photos of the same label 0.94, but 0.85 if a fifth of labels are wrong;
# without one in 50 as well 0.92 and 0.90, one in 20 0.91 and 0.91; without labels, one in 20: 0.90.
_NEAREST_KNOWN, _NEAREST_UNKNOWN = 0.02, 0.05
_ADVICE = "Extract the local features again."


@checked
def pool_rows(
    photos: Annotated[int, Field(ge=0)], count: PositiveInt = 96, seed: Seed = 0
) -> NDArray[np.int64]:
    """Draw the photos of a pool: at most `count` of the rows 0 … photos - 1, ascending.

    Example:
        >>> pool_rows(3, count=96).tolist()
        [0, 1, 2]
    """
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(photos, size=min(photos, count), replace=False)).astype(np.int64)


class BackgroundPool:
    """Local features of some photos, with which those of every photo are compared.

    The best similarity of a feature to photos of other places tells how common it is: sky, people,
    watermarks and repeated ornament have high ones. Verification subtracts it, or takes the pool as
    the rival of the ratio test. A pool of photos of another collection works nearly as well as one
    of the same and needs no landmarks.

    Args:
        photos: Local features of the pool's photos, for example of the rows that `pool_rows` draws.
        landmark_ids: Landmark of each photo, "" if unknown. None means that all are unknown.
        vectors: (P, D) global descriptors of the photos. None means that they are unknown.
        top_k: Maximum number of features of each photo. Of more, some are drawn at random: the
            strongest show its landmark, not what is common.
        seed: Of the draw.

    Attributes:
        dim: Dimension of the descriptors.
        digest: Digest of the features, landmarks and global descriptors.

    Raises:
        UserError: No photo has a feature, or the photos have features of several kinds.

    Example:
        >>> def photo(*rows):
        ...     descriptors = np.array(rows, np.float16)
        ...     xy, scores = np.zeros((len(rows), 2), "f4"), np.ones(len(rows), "f4")
        ...     return LocalFeatures(xy, descriptors, scores, size=(64, 64))
        >>> pool = BackgroundPool([photo([1, 0]), photo([3, 4])], landmark_ids=["a", "b"])
        >>> [round(x, 2) for x in pool.similarity(photo([1, 0], [0, 1]), "a").tolist()]
        [0.6, 0.8]
    """

    def __init__(
        self,
        photos: Sequence[LocalFeatures],
        landmark_ids: Sequence[str] | NDArray[np.str_] | None = None,
        vectors: NDArray[np.floating] | None = None,
        top_k: PositiveInt = 300,
        seed: Seed = 0,
    ) -> None:
        check_value("top_k", top_k, PositiveInt)
        check_value("seed", seed, Seed)
        rng = np.random.default_rng(seed)
        descriptors = [_drawn(photo.descriptors, top_k, rng) for photo in photos]
        offsets = np.cumsum([0, *map(len, descriptors)])
        if not offsets[-1]:
            raise UserError(
                f"none of the {len(photos)} photos of the pool has local features. Pass other "
                "photos, or no pool."
            )
        kinds = {(one.shape[1], one.dtype.name) for one in descriptors}
        if len(kinds) > 1:
            raise UserError(
                "the photos of the pool have local features of "
                f"{' and '.join(f'{dim} dimensions in {dtype}' for dim, dtype in sorted(kinds))}. "
                "Pass local features of one kind."
            )
        self._fill(
            np.concatenate(descriptors),
            offsets,
            np.asarray([""] * len(photos) if landmark_ids is None else landmark_ids, np.str_),
            None if vectors is None else np.asarray(vectors, np.float32),
        )

    @property
    def dim(self) -> int:
        """Dimension of the descriptors."""
        return int(self._descriptors.shape[1])

    @cached_property
    def digest(self) -> str:
        """Digest of the features, landmarks and global descriptors."""
        return digest_of_blocks(
            f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
            for array in self._arrays().values()
        )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def similarity(
        self,
        features: LocalFeatures,
        landmark_id: str | None = None,
        descriptor: NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:
        """Return the best cosine of each feature with the pool's photos of other places, (n,).

        Left out are copies of the photo, the pool's photos of its landmark, and those with the
        highest cosines of the global descriptors: one in 20 where the landmark is unknown; one in
        50 where it is known, because a few labels of other landmarks may be wrong.

        Args:
            features: Local features of a photo, in the pool or not.
            landmark_id: Its landmark; None or "" if unknown.
            descriptor: (D,) its global descriptor; None if unknown.

        Raises:
            UserError: The features are of another kind than the pool's, or no photo is left.
        """
        if features.dim != self.dim:
            raise UserError(
                f"local features of {features.dim} dimensions cannot be compared with a pool of "
                f"{self.dim}. Pass a pool of the same local features."
            )
        rows = unit_rows(features.descriptors)
        best = np.full(len(rows), -np.inf, np.float32)
        if not len(rows):
            return best
        for number in self._others(landmark_id, descriptor).tolist():
            cosines = rows @ self._photo(number).T  # photo by photo, so that they stay in the cache
            if not _is_copy(cosines):
                np.maximum(best, cosines.max(axis=1), out=best)
        if best[0] == -np.inf:
            raise UserError(
                f"none of the {len(self)} photos of the pool shows another place. Pass a pool of "
                "more photos."
            )
        return best

    def _others(
        self, landmark_id: str | None, descriptor: NDArray[np.floating] | None
    ) -> NDArray[np.int64]:
        """Return the pool's photos with features that are taken to show other places."""
        kept = np.diff(self._offsets) > 0
        share = _NEAREST_UNKNOWN
        if landmark_id and (self._landmark_ids != "").any():
            kept &= self._landmark_ids != landmark_id
            share = _NEAREST_KNOWN
        if self._vectors is not None and descriptor is not None:
            if self._vectors.shape[1] != len(descriptor):
                raise UserError(
                    f"the pool has global descriptors of {self._vectors.shape[1]} dimensions, the "
                    f"photo {len(descriptor)}. Pass a pool of the same embedder."
                )
            candidates = np.flatnonzero(kept)
            nearness = self._vectors[candidates] @ np.asarray(descriptor, np.float32)
            nearest = candidates[np.argsort(-nearness, kind="stable")]
            kept[nearest[: round(share * len(self))]] = False
        return np.flatnonzero(kept)

    def _photo(self, number: int) -> NDArray[np.float32]:
        return self._rows[self._offsets[number] : self._offsets[number + 1]]

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        """The descriptors at unit length."""
        return unit_rows(self._descriptors)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again."""
        return {key: value for key, value in vars(self).items() if key not in ("_rows", "digest")}

    def _arrays(self) -> dict[str, Any]:
        arrays = {
            "descriptors": self._descriptors,
            "offsets": self._offsets,
            "landmark_ids": self._landmark_ids,
        }
        return arrays if self._vectors is None else {**arrays, "vectors": self._vectors}

    def save(self, path: str | Path) -> None:
        """Write the pool to a file atomically, replacing an existing one.

        Raises:
            UserError: The file cannot be written, or the disk is full.
        """
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, schema=np.int64(SCHEMA), **self._arrays())

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            UserError: The file is missing, damaged, not a pool, or was written by a later version.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} is not a background pool. Pass a file that extract.py wrote.")
        try:
            with damage(path, _ADVICE), np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
                check_schema(path, {"schema": int(arrays.pop("schema"))}, SCHEMA)
                pool = cls.__new__(cls)
                pool._fill(**arrays)
        except BadZipFile as error:
            raise UserError(f"{path} is damaged ({error}). {_ADVICE}") from error
        return pool

    def _fill(
        self,
        descriptors: NDArray[Any],
        offsets: NDArray[np.int64],
        landmark_ids: NDArray[np.str_],
        vectors: NDArray[np.float32] | None = None,
    ) -> None:
        """Set the arrays.

        Raises:
            ValueError: Their shapes or dtypes do not match.
        """
        photos = len(offsets) - 1
        if descriptors.ndim != 2 or descriptors.dtype not in ("uint8", "float16", "float32"):
            raise ValueError(f"descriptors of {descriptors.dtype} and shape {descriptors.shape}")
        if offsets[0] != 0 or offsets[-1] != len(descriptors) or (np.diff(offsets) < 0).any():
            raise ValueError("offsets do not match the descriptors")
        if landmark_ids.shape != (photos,) or landmark_ids.dtype.kind != "U":
            raise ValueError(f"{landmark_ids.size} landmark_ids for {photos} photos")
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != photos):
            raise ValueError(f"vectors of shape {vectors.shape} for {photos} photos")
        self._descriptors, self._offsets = descriptors, offsets
        self._landmark_ids, self._vectors = landmark_ids, vectors


def _drawn(descriptors: NDArray[Any], top_k: int, rng: np.random.Generator) -> NDArray[Any]:
    """Draw at most `top_k` of the descriptors (n, d), in their order."""
    count = len(descriptors)
    rows = rng.choice(count, size=min(top_k, count), replace=False)
    return np.asarray(descriptors)[np.sort(rows)]


def _is_copy(cosines: NDArray[np.float32]) -> bool:
    """Whether nearly all features of the pool's photo occur in the other photo: cosines (n, k)."""
    return bool((cosines.max(axis=0) >= _COPY).mean() > 0.9)
