"""A matplotlib figure to a PNG file."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from landmark.disk.atomic import atomic_file
from landmark.error import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: "Figure", path: str | Path, dpi: int) -> Path:
    """Writes the figure, whole or not at all; returns the path.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with atomic_file(path) as temporary, warnings.catch_warnings():
            # Names of landmarks come in every script; what the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(temporary, format="png", dpi=dpi)
    except OSError as error:  # a full disk says so without a file's name
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return Path(path)
