"""What was made of a gallery, kept until another one or the gallery's end."""

import weakref
from typing import Generic, TypeVar

import numpy as np

from landmark.artifact.stacked import StackedVectors

Value = TypeVar("Value")
_SAMPLED_ROWS = 64


class Kept(Generic[Value]):
    """The values made of the last few galleries, each for that very array alone.

    An array is known again by being the same object, not by its address, which another may get.
    Some of its rows are compared as well, so that an array that was filled anew is not taken for
    the old one.

    Args:
        most: Galleries kept: a chain of re-rankers asks the gallery and the train photos in turn.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._entries: list[tuple[weakref.ref, bytes, Value]] = []

    def get(self, gallery: np.ndarray | StackedVectors) -> Value | None:
        """The value made of this gallery, or None."""
        for place, (array, sample, value) in enumerate(self._entries):
            if array() is gallery:
                entry = self._entries.pop(place)
                if sample != _sample(gallery):
                    return None
                self._entries.append(entry)  # the last one asked for goes last
                return value
        return None

    def put(self, gallery: np.ndarray | StackedVectors, value: Value) -> None:
        """Keep a value, and let the oldest go."""
        self._entries = [entry for entry in self._entries if entry[0]() is not gallery]
        self.make_room()
        self._entries.append((weakref.ref(gallery, self._forget), _sample(gallery), value))

    def make_room(self) -> None:
        """Let the oldest go before a new value is made, so that not one more is in memory."""
        del self._entries[: max(0, len(self._entries) - self._most + 1)]

    def _forget(self, gone: weakref.ref) -> None:
        self._entries = [entry for entry in self._entries if entry[0] is not gone]


def _sample(gallery: np.ndarray | StackedVectors) -> bytes:
    """The bytes of some rows from the first to the last, and the shape."""
    rows = np.unique(np.linspace(0, max(0, len(gallery) - 1), _SAMPLED_ROWS, dtype=np.int64))
    values = np.ascontiguousarray(gallery[rows]) if len(gallery) else np.empty(0)
    return repr(gallery.shape).encode() + values.tobytes()
