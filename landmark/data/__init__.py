"""Your own photos and published data sets, as tables and as batches."""

from typing import TYPE_CHECKING, Any

from landmark.data.folder import Folder
from landmark.data.gldv2 import GLDv2
from landmark.data.image_table import ImageTable
from landmark.data.revisited import ROxford5k, RParis6k
from landmark.data.source import Source
from landmark.data.table import Table
from landmark.data.toy import Toy

if TYPE_CHECKING:
    from landmark.data.module import LandmarkData

__all__ = [
    "Folder",
    "GLDv2",
    "ImageTable",
    "LandmarkData",
    "ROxford5k",
    "RParis6k",
    "Source",
    "Table",
    "Toy",
]

# Names in configurations recorded by earlier versions.
GLDv1 = GLDv2
GLDv2Clean = GLDv2


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import LandmarkData on first use: reading tables needs neither torch nor Lightning."""
    if name == "LandmarkData":
        from landmark.data.module import LandmarkData

        return LandmarkData
    raise AttributeError(name)
