"""Reads published ground truths that are pickles, without running what a pickle may ask for."""

import pickle
from pathlib import Path

from landmark.mistake import UserMistake

_PLAIN = ("dict", "list", "tuple", "set", "int", "float", "str", "bytes", "bool")
_ALLOWED = {
    (package, name)
    for package, names in {
        "builtins": _PLAIN,
        "__builtin__": _PLAIN,  # as Python 2 and the older protocols say it
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
        "_codecs": ("encode",),
    }.items()
    for name in names
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Only containers, numbers, text and numpy arrays."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def load_pickle(path: str | Path) -> object:
    """The containers, numbers, texts and numpy arrays of a pickle; nothing else is made or run.

    Raises:
        UserMistake: not there, damaged, or asking for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserMistake(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # damaged bytes make the reader fail in nearly any way
        raise UserMistake(f"{path}: refused as a ground truth ({error})") from error
