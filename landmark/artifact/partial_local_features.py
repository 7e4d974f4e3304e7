"""Local features being written, from which a stopped extraction resumes."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from landmark import __version__
from landmark.artifact.feature_files import FeatureFiles, NotFiniteError
from landmark.artifact.folder import damage, read_json, write_json
from landmark.artifact.local_features import (
    FOLDER,
    META,
    RESERVED,
    SCHEMA,
    STORED_DTYPES,
    LocalFeatures,
    LocalFeatureStore,
    ids_digest,
)
from landmark.artifact.local_parts import PARTS, has_photos
from landmark.disk.atomic import atomic_file, check_can_write
from landmark.disk.differences import as_recorded, check_same_settings
from landmark.disk.lock import LOCK, locked, publish
from landmark.disk.space import disk_errors
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.artifact.descriptors import DescriptorStore

# Names in the staging folder: the features, and how many of them are complete.
_FEATURES, _PROGRESS = "features", "progress.json"


class LocalFeatureWriter:
    """The staging folder `STORE/local/.NAME.partial`, to which features are appended in row order.

    One process writes it. Nothing is kept in memory beyond the buffers of the files. After a stop,
    `writing` with the same settings resumes at the last `save`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from landmark.artifact.descriptors import DescriptorStore
        >>> path = tempfile.mkdtemp() + "/store"
        >>> DescriptorStore.write(path, ["a"], np.eye(1, 4, dtype="f4"))
        >>> store = DescriptorStore.open(path)
        >>> xy, scores = np.zeros((3, 2), "f4"), np.ones(3, "f4")
        >>> photo = LocalFeatures(xy, np.zeros((3, 128), "u1"), scores, size=(40, 30))
        >>> with LocalFeatureWriter.writing(store, "mine", dim=128, columns=2) as writer:
        ...     for photo in [photo][writer.photos :]:
        ...         writer.append(photo)
        ...         writer.save()
        >>> len(store.local("mine")[0])
        3
    """

    def __init__(
        self, staging: Path, output: Path, store: "DescriptorStore", settings: Mapping[str, Any]
    ) -> None:
        self._staging, self._output, self._store = staging, output, store
        self._settings = settings
        self._folder = staging / _FEATURES
        progress = _read_progress(staging) or {"photos": 0, "features": 0}
        self._files = FeatureFiles(
            self._folder, settings, int(progress["photos"]), int(progress["features"])
        )

    @property
    def photos(self) -> int:
        """Number of photos appended; the next `append` is that row of the store."""
        return self._files.photos

    @property
    def folder(self) -> Path:
        """Folder that is moved to STORE/local/NAME."""
        return self._folder

    @property
    def parts(self) -> Path:
        """Folder for features that are not in row order yet, see `LocalParts`."""
        return self._staging / PARTS

    @classmethod
    @contextmanager
    def writing(
        cls,
        store: "DescriptorStore",
        name: str,
        dim: int,
        dtype: Literal["uint8", "float16"] = "uint8",
        columns: Literal[2, 3, 4] = 4,
        background: bool = False,
        overwrite: bool = False,
        **settings: Any,  # noqa: ANN401
    ) -> Iterator["LocalFeatureWriter"]:
        """Yield a writer of STORE/local/NAME; the folder appears when the block ends.

        A block that raises leaves what was saved, to be resumed.

        Args:
            store: Descriptor store of the photos.
            name: Name of the local features.
            dim: Dimension d of the descriptors.
            dtype: Their dtype.
            columns: Columns of keypoints.npy: 2 for x and y, 3 with scales, 4 also with angles.
            background: The features have the similarity to a pool of other photos.
            overwrite: Replace existing local features of this name, and discard a stopped
                extraction.
            **settings: Settings to record; values must be JSON-serialisable.

        Raises:
            UserError: The local features exist already, a stopped extraction had other settings,
                another process writes them, a feature is not finite, or the disk is full.
            RuntimeError: The block ended before the features of every photo were appended.
            TypeError: A value of `settings` is not JSON-serialisable.
            ValueError: The dtype is not uint8 or float16, or a key of `settings` is one that the
                writer records itself.
        """
        if dtype not in STORED_DTYPES:
            raise ValueError(f"dtype {dtype} is not one of {', '.join(STORED_DTYPES)}")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UserError(
                f"The name {name!r} of local features is not valid. Pass letters, digits, - and _."
            )
        if taken := RESERVED & settings.keys():
            raise ValueError(f"{min(taken)} is recorded by the writer itself")
        layout = {"dim": dim, "columns": columns, "background": background}
        recorded = as_recorded({"dtype": dtype, "ids": ids_digest(store.rows["id"])})
        recorded |= as_recorded({**layout, **settings})
        output = store.path / FOLDER / name
        check_can_write(output, overwrite, marker=META)
        try:
            with locked(output) as staging, disk_errors(output, within=staging):
                _prepare(staging, recorded, overwrite)
                writer = cls(staging, output, store, recorded)
                try:
                    with writer._files:
                        yield writer
                        writer._finish(overwrite)
                finally:
                    is_empty = (_read_progress(staging) or {}).get("photos") == 0
                    if is_empty and not has_photos(staging / PARTS):
                        _clear(staging)
        finally:
            with suppress(OSError):
                output.parent.rmdir()  # if nothing was written

    def append(self, features: LocalFeatures) -> None:
        """Append the features of the next photo.

        Raises:
            UserError: A feature is not finite; names the photo.
            ValueError: There are more photos than rows in the store, or the features have another
                dimension, dtype or other parts than those announced to `writing`.
        """
        if self.photos >= len(self._store):
            raise ValueError(f"{self._output}: the store has only {len(self._store)} photos")
        try:
            self._files.append(features)
        except NotFiniteError as error:
            photo = str(self._store.rows["id"].iloc[self.photos])
            raise UserError(
                f"{self._output}: {error} of {photo!r} has a value that is not finite. Local "
                "features must be finite."
            ) from None

    def append_all(self, block: Sequence[LocalFeatures] | LocalFeatureStore) -> None:
        """Append the features of the next photos, or those of another folder of local features."""
        for features in block:
            self.append(features)

    def save(self) -> None:
        """Flush the appended features, and only then record that they are complete."""
        self._files.flush()
        progress = {"photos": self.photos, "features": self._files.features}
        _write_progress(self._staging, self._settings, progress)

    def _finish(self, overwrite: bool) -> None:
        if self.photos != len(self._store):
            raise RuntimeError(
                f"{self._output}: local features of {self.photos} of {len(self._store)} photos"
            )
        self.save()
        meta = {"schema": SCHEMA, "version": __version__, **self._settings}
        write_json(self._folder / META, meta)
        LocalFeatureStore.open(self._folder)
        self._files.close()
        check_can_write(self._output, overwrite, marker=META)
        publish(self._folder, self._output, self._staging)
        _clear(self._staging)


def _prepare(staging: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Keep a stopped extraction with the same settings; otherwise empty the staging folder."""
    progress = _read_progress(staging)
    if progress is not None and not overwrite:
        recorded = progress["settings"]
        requested = dict.fromkeys(recorded) | dict(settings)
        advice = "Use the same settings to resume, or pass overwrite=true to start over."
        check_same_settings(recorded, requested, f"{staging} contains a stopped extraction", advice)
        return
    _clear(staging)
    _write_progress(staging, settings, {"photos": 0, "features": 0})


def _write_progress(staging: Path, settings: Mapping[str, Any], progress: dict[str, int]) -> None:
    with atomic_file(staging / _PROGRESS) as temporary:
        write_json(temporary, {"settings": settings, **progress})


def _read_progress(staging: Path) -> dict[str, Any] | None:
    file = staging / _PROGRESS
    if not file.is_file():
        return None
    with damage(file, f"Remove {staging}."):
        record = read_json(file)
        counts = {name: int(record[name]) for name in ("photos", "features")}
        return {"settings": dict(record["settings"]), **counts}


def _clear(staging: Path) -> None:
    """Remove a stopped extraction from its locked staging folder."""
    (staging / _PROGRESS).unlink(missing_ok=True)  # first: without it the rest is ignored
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
