"""Find the tensors of a model in the content of a weights file, under whatever names it has."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from torch import Tensor

# Modules that torch.compile, FSDP and activation checkpointing put around another one.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = {"ema", "teacher", "target", "averaged", "average", "swa"}
_SECONDARY = {"student", "current", "momentum", "k"}
_DEPTH = 5

State = dict[str, Tensor]


class Match(NamedTuple):
    """Tensors of a model in a weights file.

    Attributes:
        tensors: The file's tensors by the model's names, with those that the model does not have.
        prefix: What precedes the model's names in the file, keys of dictionaries included.
        others: Prefixes under which the file has the same tensors again.
        unused: The file's names beside the model's, in the same dictionary.
    """

    tensors: State
    prefix: str
    others: list[str]
    unused: list[str]


def flatten(content: Mapping[Any, Any], depth: int = _DEPTH) -> State:
    """Return all tensors of nested dictionaries by their keys, joined by dots.

    Dictionaries whose keys are not text, such as an optimizer's state, are left out.

    Example:
        >>> import torch
        >>> list(flatten({"model": {"fc.weight": torch.zeros(1)}, "epoch": 3}))
        ['model.fc.weight']
    """
    state: State = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            state[key] = value
        elif isinstance(key, str) and isinstance(value, Mapping) and depth:
            state |= {f"{key}.{name}": t for name, t in flatten(value, depth - 1).items()}
    return state


def find_tensors(
    state: State,
    expected: Mapping[str, Tensor],
    optional: Set[str] = frozenset(),
    rename: Callable[[State], State] | None = None,
) -> Match:
    """Find the prefix under which `state` has most of the expected names.

    Where several prefixes have the same tensors, averaged weights come first (ema, teacher,
    target, swa), then others such as encoder_q, then student, momentum and encoder_k.

    Args:
        state: The file's tensors by name, see `flatten`.
        expected: The model's tensors by name.
        optional: Names of further tensors of the model that may be missing.
        rename: Translates the names of the model's original publication and resamples position
            embeddings; used where the names and shapes of the file do not fit.
    """
    state = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    counts = Counter(prefix for name in state for prefix, rest in _splits(name) if rest in expected)
    found = {prefix: _below(state, prefix) for prefix in counts}
    direct = set(found)
    nearest = max(found, key=lambda prefix: _fit(found[prefix], expected), default="")
    if rename is not None and _fit(found.get(nearest, {}), expected) != (len(expected),) * 2:
        for prefix in dict.fromkeys([nearest, *_main_prefixes(state)]):
            renamed = rename(_below(state, prefix))
            if _fit(renamed, expected) > _fit(found.get(prefix, {}), expected):
                found[prefix] = renamed
                direct.discard(prefix)
    if not found:
        return Match(state, "", [], [])
    fits = {prefix: _fit(part, expected) for prefix, part in found.items()}
    best = [prefix for prefix, fit in fits.items() if fit == max(fits.values())]
    # A translation that also removes a prefix finds the same tensors below the shorter one.
    best = [p for p in best if p in direct or not any(q.startswith(p) for q in best if q != p)]
    chosen, *others = sorted(best, key=_preference)
    used = {prefix + name for prefix in (chosen, *others) for name in expected.keys() | optional}
    return Match(found[chosen], chosen, others, _unused(state, found[chosen], chosen, others, used))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    yield "", name
    for match in re.finditer(r"\.", name):
        yield name[: match.end()], name[match.end() :]


def _below(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}


def _fit(state: State, expected: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return how many of the expected names are there, and how many in the expected shape."""
    there = [name for name in expected if name in state]
    return len(there), sum(state[name].shape == expected[name].shape for name in there)


def _main_prefixes(state: State) -> list[str]:
    """Return the prefixes of at least a tenth of all names, the shortest first."""
    counts = Counter(prefix for name in state for prefix, _ in _splits(name))
    return sorted((p for p, n in counts.items() if 10 * n >= len(state)), key=len)


def _preference(prefix: str) -> int:
    words = set(re.split(r"[._]", prefix.lower()))
    return 0 if words & _AVERAGED else 2 if words & _SECONDARY else 1


def _unused(state: State, part: State, chosen: str, others: list[str], used: Set[str]) -> list[str]:
    """Return the names beside the model's, without those of its other copies."""
    copies = tuple(root for other in others if (root := _first_difference(other, chosen)))
    names = [name for name in state if not name.startswith(chosen)]
    names += [chosen + name for name in part]
    return [name for name in names if name not in used and not name.startswith(copies)]


def _first_difference(prefix: str, other: str) -> str:
    """Return `prefix` up to the first key in which it differs from `other`."""
    roots = [prefix[: match.end()] for match in re.finditer(r"\.", prefix)]
    return next((root for root in roots if not other.startswith(root)), prefix)
