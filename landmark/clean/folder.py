"""The output folder of a cleaning: what it already has, and how it is replaced."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landmark.artifact.folder import check_schema, damage, read_json
from landmark.clean.output import META, PAIRS, PHOTOS, SCHEMA
from landmark.disk.atomic import check_can_write
from landmark.disk.differences import check_same_settings
from landmark.disk.lock import publish
from landmark.disk.space import disk_errors

_NEW = "new"
_ADVICE = "Pass overwrite=true to replace it, or another output."
# Without geometric verification these settings are not used.
OF_GEOMETRY = ("geometry", "verify", "local")


def read_meta(output: Path, overwrite: bool) -> dict[str, Any]:
    """Return the meta.json of an earlier cleaning; empty without one.

    Raises:
        UserError: `output` contains something else, or is damaged.
    """
    if overwrite or not (output / META).is_file():
        check_can_write(output, overwrite, marker=META)
        return {}
    with damage(output / META, _ADVICE):
        meta = read_json(output / META)
        check_schema(output, meta, SCHEMA)
        if not {"pairs", PAIRS, PHOTOS} <= {*meta, *(file.name for file in output.iterdir())}:
            raise ValueError("the verified pairs are missing")
    return meta


def is_reusable(
    output: Path, recorded: Mapping[str, Any] | None, wanted: Mapping[str, Any]
) -> bool:
    """Whether the pairs in the output are those wanted.

    Args:
        output: The folder.
        recorded: Settings of its pairs; None if it has none.
        wanted: Settings of this cleaning.

    Raises:
        UserError: The pairs have other settings; names each one.
    """
    if recorded is None:
        return False
    ignored = () if wanted["geometry"] else OF_GEOMETRY
    check_same_settings(recorded, wanted, f"{output} has pairs", _ADVICE, ignored)
    return True


@contextmanager
def replacing(
    output: Path, staging: Path, rewritten: tuple[str, ...], overwrite: bool = False
) -> Iterator[Path]:
    """Yield a folder with the files of `output`, which replaces it when the block ends.

    Args:
        output: The folder to replace; created if it does not exist.
        staging: Its locked staging folder.
        rewritten: Files that the block writes or leaves out.
        overwrite: Keep nothing of `output`.
    """
    new = staging / _NEW
    with disk_errors(output, within=staging):
        shutil.rmtree(new, ignore_errors=True)
        if output.is_dir() and not overwrite:
            # Links cost nothing; nobody writes into a file that is linked.
            ignore = shutil.ignore_patterns(*rewritten)
            shutil.copytree(output, new, copy_function=_link, ignore=ignore)
        else:
            new.mkdir()
        try:
            yield new
            publish(new, output, staging)
        finally:
            for leftover in (new, staging / "old"):
                shutil.rmtree(leftover, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)
    return target
