"""Write a matplotlib figure as a PNG file."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from landmark.disk.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: "Figure", path: str | Path, dpi: int) -> Path:
    """Write the figure atomically and return the path.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_file(path) as temporary, warnings.catch_warnings():
        # Landmark names may be in any script; glyphs missing from the font are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, format="png", dpi=dpi)
    return Path(path)
