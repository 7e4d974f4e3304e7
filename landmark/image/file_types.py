"""The file types that are read as photos: those whose pixels Pillow decodes itself.

Formats that Pillow only identifies (MPEG, and the stubs for BUFR, GRIB, HDF5 and WMF) are left out,
and so is EPS: it is a program, which Pillow passes to Ghostscript.
"""

from functools import cache

from PIL import Image, ImageFile

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
INSTALL_HEIF = "pip install pillow-heif"
PROGRAMS = frozenset({"EPS"})
_WITHOUT_DECODER = frozenset({"MPEG"})
_WITHOUT_OPENER = frozenset({".mpo"})  # opened by the JPEG plugin


@cache
def photo_suffixes() -> frozenset[str]:
    """Return the suffixes of photos, in lower case; those of HEIF where pillow-heif is installed.

    Example:
        >>> {".jpg", ".webp", ".tif"} <= photo_suffixes()
        True
        >>> sorted({".eps", ".mpg", ".txt"} & photo_suffixes())
        []
    """
    register_heif()
    suffixes = Image.registered_extensions()  # loads all plugins
    decoded = {name for name, (opener, _) in Image.OPEN.items() if not _is_stub(opener)}
    decoded -= PROGRAMS | _WITHOUT_DECODER
    return _WITHOUT_OPENER | {suffix for suffix, name in suffixes.items() if name in decoded}


@cache
def register_heif() -> bool:
    """Let Pillow read HEIF through pillow-heif; return whether it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
