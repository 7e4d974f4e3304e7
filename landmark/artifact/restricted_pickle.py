"""Reads published ground truths that are pickles, without running what a pickle may ask for.

Not even numpy's own constructors are lent to the pickle: with an object dtype they read any
address in memory. Arrays of numbers and text are made here from a shape, a dtype and their bytes.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.error import UserError

_PLAIN_KINDS = "biufcSU"


class _PlainDtype:
    """A dtype of numbers or text; the pickle's state may only set the order of its bytes."""

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _PLAIN_KINDS or self.dtype.subdtype is not None:
            raise pickle.UnpicklingError(f"it asks for an array of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _PlainArray(np.ndarray):
    """An array that takes its state only with a plain dtype."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, data = state
        plain = _plain(dtype)
        native = plain.newbyteorder("=")  # numpy would keep the foreign order and swap the values
        values = np.frombuffer(data, plain).astype(native).tobytes()
        super().__setstate__((version, shape, native, fortran, values))

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401
        """Travels on, to a worker process say, as an ordinary array."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _plain(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, _PlainDtype):
        raise pickle.UnpicklingError(f"it asks for an array of {type(dtype).__name__}")
    return dtype.dtype


def _empty(*_: object) -> NDArray[Any]:
    return _PlainArray((0,), np.int8)


def _scalar(dtype: object, data: bytes | str) -> object:
    # Protocols 0 to 2 write bytes as latin-1 text.
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, _plain(dtype))[0]


def _from_buffer(data: bytes, dtype: object, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return np.frombuffer(data, _plain(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _latin_bytes(text: str, encoding: str) -> bytes:
    if encoding.replace("-", "").replace("_", "").lower() not in ("latin1", "utf8", "ascii"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode(encoding)


_BUILTINS: dict[str, Callable[..., object]] = {
    kind.__name__: kind
    for kind in (dict, list, tuple, set, frozenset, int, float, str, bytes, bytearray, bool)
}
_ARRAYS: dict[str, Callable[..., object]] = {"_reconstruct": _empty, "scalar": _scalar}
_FROM_BUFFER: dict[str, Callable[..., object]] = {"_frombuffer": _from_buffer}
_LENT: dict[str, dict[str, Callable[..., object]]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # as Python 2 and the older protocols say it
    # `ndarray` is only named, as what _reconstruct is to make.
    "numpy": {"ndarray": _empty, "dtype": _PlainDtype},
    "numpy.core.multiarray": _ARRAYS,
    "numpy._core.multiarray": _ARRAYS,
    "numpy.core.numeric": _FROM_BUFFER,
    "numpy._core.numeric": _FROM_BUFFER,
    "_codecs": {"encode": _latin_bytes},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Only containers, numbers, text and arrays of them."""
        lent = _LENT.get(module, {}).get(name)
        if lent is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return lent


def load_pickle(path: str | Path) -> object:
    """The containers, numbers, texts and numpy arrays of a pickle; nothing else is made or run.

    Raises:
        UserError: not there, damaged, or asking for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # damaged bytes make the reader fail in nearly any way
        raise UserError(f"{path}: refused as a ground truth ({error})") from error
