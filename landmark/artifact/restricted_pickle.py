"""Read published pickles of plain values without running code that a pickle may request.

Even numpy's own constructors are refused: with an object dtype they read any address in memory.
Arrays of numbers and text are built here from a shape, a dtype and their bytes.
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
    """A dtype of numbers or text; the pickle's state may only set its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _PLAIN_KINDS or self.dtype.subdtype is not None:
            raise pickle.UnpicklingError(f"it requests an array of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _PlainArray(np.ndarray):
    """An array that accepts only a state with a plain dtype."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, data = state
        plain = _plain(dtype)
        native = plain.newbyteorder("=")  # numpy would keep the byte order and swap the bytes
        values = np.frombuffer(data, plain).astype(native).tobytes()
        super().__setstate__((version, shape, native, fortran, values))

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401
        """Pickle as an ordinary array, for worker processes."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _plain(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, _PlainDtype):
        raise pickle.UnpicklingError(f"it requests an array of {type(dtype).__name__}")
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
        raise pickle.UnpicklingError(f"it requests the encoding {encoding}")
    return text.encode(encoding)


_BUILTINS: dict[str, Callable[..., object]] = {
    kind.__name__: kind
    for kind in (dict, list, tuple, set, frozenset, int, float, str, bytes, bytearray, bool)
}
_ARRAYS: dict[str, Callable[..., object]] = {"_reconstruct": _empty, "scalar": _scalar}
_FROM_BUFFER: dict[str, Callable[..., object]] = {"_frombuffer": _from_buffer}
_ALLOWED: dict[str, dict[str, Callable[..., object]]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # the name in Python 2 and older protocols
    # `ndarray` is only an argument of _reconstruct, which ignores it.
    "numpy": {"ndarray": _empty, "dtype": _PlainDtype},
    "numpy.core.multiarray": _ARRAYS,
    "numpy._core.multiarray": _ARRAYS,
    "numpy.core.numeric": _FROM_BUFFER,
    "numpy._core.numeric": _FROM_BUFFER,
    "_codecs": {"encode": _latin_bytes},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Allow only containers, numbers, text and arrays of them."""
        allowed = _ALLOWED.get(module, {}).get(name)
        if allowed is None:
            raise pickle.UnpicklingError(f"it requests {module}.{name}")
        return allowed


def load_pickle(path: str | Path) -> object:
    """Read the containers, numbers, text and numpy arrays of a pickle; execute nothing else.

    Raises:
        UserError: The file is missing, damaged, or requests anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Pass the published .pkl file.")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # damaged bytes can raise nearly any exception
        raise UserError(
            f"{path} is not a pickle of plain values ({error}). Pass the published file."
        ) from error
