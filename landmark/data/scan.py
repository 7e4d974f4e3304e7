"""List the photos of a folder by landmark, and what else is in it."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from landmark.image.file_types import HEIF_SUFFIXES, INSTALL_HEIF, photo_suffixes

# What operating systems and storage devices put beside photos.
_SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "ehthumbs.db", "#recycle", "$recycle.bin"}
    | {"system volume information", "lost+found"}
)
_RUN_FOLDER = ".hydra"  # of a run, whose pictures are not photos
_MAX_KINDS = 8
_MAX_NAMES = 3


@dataclass
class Scan:
    """The files below a root, relative to it, with slashes.

    Attributes:
        photos: Landmark → its photos, sorted.
        unused: Files that are not used, in any order.
        skipped: Kind of folder or special file that was not entered → number.
    """

    photos: dict[str, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def use(self, paths: list[str]) -> None:
        """Add files to the photos of their landmarks, whatever their suffix."""
        added = set(paths)
        self.unused = [path for path in self.unused if path not in added]
        for path in paths:
            self.photos.setdefault(path.partition("/")[0], []).append(path)
        self.sort()

    def sort(self) -> None:
        """Sort the landmarks, and their photos."""
        self.photos = {name: sorted(self.photos[name]) for name in sorted(self.photos)}

    def summary(self) -> str:
        """Return the numbers of files by kind; "" if every file is a photo in its own folder."""
        nested = sum(path.count("/") > 1 for paths in self.photos.values() for path in paths)
        kinds = Counter(map(_kind, self.unused)) + self.skipped
        if not kinds and not nested:
            return ""
        used = sum(map(len, self.photos.values()))
        files = used + sum("/" in path for path in self.unused)
        line = f"{files:,} files of {len(self.photos):,} landmarks"
        if kinds:
            listed = [f"{count:,} {kind}" for kind, count in kinds.most_common(_MAX_KINDS)]
            others = len(kinds) - len(listed)
            line += f"; not used: {', '.join(listed)}" + (f", {others} other kinds" * (others > 0))
        folders = {path.partition("/")[0] for path in self.unused if "/" in path}
        if empty := sorted(folders - self.photos.keys()):
            names = ", ".join(empty[:_MAX_NAMES]) + (", …" * (len(empty) > _MAX_NAMES))
            line += f"; no photos in {names}"
        if nested:
            line += f"; in subfolders: {nested:,} (the landmark is the first folder of the path)"
        return line


def scan(root: Path) -> Scan:
    """List the files below `root`; leave out hidden ones and those of operating systems.

    Photos are the files whose suffix is in `photo_suffixes`. Links are followed, except to a folder
    that contains them.
    """
    result = Scan()
    suffixes = photo_suffixes()
    top = os.path.realpath(root)
    # Folder, its path relative to the root, and the folders that led to it through links.
    folders: list[tuple[str, str, tuple[str, ...]]] = [(str(root), "", (top,))]
    while folders:
        folder, prefix, origins = folders.pop()
        with os.scandir(folder) as listing:
            entries = list(listing)
        if prefix and any(entry.name == _RUN_FOLDER for entry in entries):
            result.skipped["run folder(s)"] += 1
            continue
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name.lower() in _SYSTEM_NAMES:
                continue
            path = f"{prefix}{name}"
            if entry.is_dir():
                through = origins
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if _contains(target, (os.path.realpath(folder), *origins)):
                        result.skipped["link(s) to a parent folder"] += 1
                        continue
                    through = (*origins, target)
                folders.append((entry.path, f"{path}/", through))
            elif not (entry.is_file() or entry.is_symlink()):
                result.skipped["not a regular file"] += 1
            elif prefix and os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122
                result.photos.setdefault(path.partition("/")[0], []).append(path)
            elif prefix or name.lower() != "splits.csv":
                result.unused.append(path)
    result.sort()
    return result


def _contains(folder: str, others: tuple[str, ...]) -> bool:
    return any(f"{other}/".startswith(f"{folder.rstrip('/')}/") for other in others)


def _kind(path: str) -> str:
    """Return the kind of an unused file, for people."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if "/" not in path and suffix in photo_suffixes():
        return "at the top level"
    if suffix in HEIF_SUFFIXES:
        return f"{suffix} ({INSTALL_HEIF})"
    if not 1 < len(suffix) <= 9 or not suffix[1:].isascii() or " " in suffix:
        return "without a suffix"
    return suffix
