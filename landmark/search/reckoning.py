"""What each search would cost for a gallery: bytes, seconds and recall, reckoned beforehand.

The seconds come from two speeds measured on the machine at hand and from counting multiply-adds;
the expected recalls from measurements on synthetic descriptors of landmarks (docs/scale.md). Both
are to choose by, not to rely on: the recall is measured afterwards.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from landmark.search.plan import Machine, Plan, Work

_KMEANS_ROUNDS = 10
_ROWS_A_LIST = 64  # trained on
_CENTRES = 256  # of a byte of code
_CODE_ROWS = 65536  # trained on
_CODE_ROUNDS = 25
_BLOCK_ROWS = 65536
_RECALL_RATE, _RECALL_POWER = 1.4, 0.6
# Codes of D / 8 bytes keep this much of the recall where the best 16 k are scored exactly, of a
# gallery of up to so many photos, or the best 64 k of a larger one.
_CODES_KEEP, _CODES_ROWS = 0.98, 100_000
_GRAPH_RECALL = 0.97  # of 32 links a photo, ef_search = 256 or 2 k
# Descriptors compared while a photo is linked into a graph of 100,000, and for each candidate that
# a query looks at; both grow with the logarithm of N.
_LINKED, _WALKED = 3300, 23


def plans(work: Work, machine: Machine, recall: float) -> list[Plan]:
    """Every way to search that is weighed, whether or not it fits.

    Args:
        work: What is to be searched.
        machine: What searches it.
        recall: Share of the true k nearest to be found, 0 to 1; the settings aim at it.
    """
    return [_flat(work, machine), *_inverted(work, machine, recall), *_graphs(work, machine)]


def _flat(work: Work, machine: Machine) -> Plan:
    held = 0 if work.value_bytes == 4 else 4 * min(work.rows, _BLOCK_ROWS) * work.dim
    return Plan("flat", bytes=held, seconds=_products(work, work.queries) / machine.products)


def _inverted(work: Work, machine: Machine, recall: float) -> Iterator[Plan]:
    """Inverted lists of √N to 4 √N lists, in several storages."""
    check = _products(work, min(work.sample, work.queries)) / machine.products
    for factor in (1, 2, 4):
        lists = round(factor * math.sqrt(work.rows))
        if lists < 1 or work.rows < 39 * lists:
            continue
        for plan in _storages(work, machine, lists, lists_to_probe(recall, lists)):
            yield replace(plan, build=plan.build + check)
        probed = lists_to_probe(min(1.0, recall / _CODES_KEEP), lists)
        coded = _coded(work, machine, lists, probed)
        yield replace(coded, build=coded.build + check)


def _storages(work: Work, machine: Machine, lists: int, probed: int) -> Iterator[Plan]:
    """Lists that hold the descriptors as they are, in half precision, or in 8 bits a value."""
    ask, compared = _asked(work, machine, lists, probed)
    settings = {"n_lists": lists, "n_probe": probed}
    stored: tuple[tuple[int, dict[str, Any]], ...] = (
        (4, {}),
        (2, {"storage": "float16"}),
        (1, {"storage": "sq8", "refine": 2}),
    )
    for size, extra in stored:
        yield Plan(
            "ivf",
            settings | extra,
            size * work.rows * work.dim + _overhead(work, lists),
            expected_recall(probed, lists),
            _clustered(work, machine, lists),
            ask + compared * work.dim / machine.scans,
        )


def _coded(work: Work, machine: Machine, lists: int, probed: int) -> Plan:
    """Lists that hold codes, the best of which are scored exactly."""
    ask, compared = _asked(work, machine, lists, probed)
    code = max(n for n in range(1, max(1, work.dim // 8) + 1) if work.dim % n == 0)
    learned = _CODE_ROUNDS * min(work.rows, _CODE_ROWS) * _CENTRES * work.dim / machine.scans
    encoded = work.rows * _CENTRES * work.dim / machine.scans
    refine = 16 if work.rows <= _CODES_ROWS else 64
    rescored = work.queries * refine * work.k * work.dim
    return Plan(
        "ivfpq",
        {"n_lists": lists, "n_probe": probed, "refine": refine},
        code * work.rows + _overhead(work, lists),
        expected_recall(probed, lists) * _CODES_KEEP,
        _clustered(work, machine, lists) + learned + encoded,
        ask + (3 * compared * code + 3 * rescored) / machine.scans,
    )


def _clustered(work: Work, machine: Machine, lists: int) -> float:
    """Seconds to find the centres and to assign the gallery to them."""
    trained = min(work.rows, _ROWS_A_LIST * lists)
    return (_KMEANS_ROUNDS * trained + work.rows) * lists * work.dim / machine.products


def _asked(work: Work, machine: Machine, lists: int, probed: int) -> tuple[float, float]:
    """Seconds to compare all queries with the centres; descriptors then compared with them."""
    ask = work.queries * lists * work.dim / machine.products
    return ask, work.queries * probed / lists * work.rows


def _overhead(work: Work, lists: int) -> int:
    """Bytes of centres, of the rows that they are trained on, and of row numbers."""
    trained = min(work.rows, _ROWS_A_LIST * lists)
    return 4 * work.dim * (lists + trained) + 8 * work.rows


def _graphs(work: Work, machine: Machine) -> Iterator[Plan]:
    """Graphs, of descriptors as they are or in 8 bits."""
    check = _products(work, min(work.sample, work.queries)) / machine.products
    wide = max(256, 2 * work.k)
    links = 4 * 2 * 33 * work.rows
    steps = math.log2(max(2, work.rows)) / math.log2(100_000)
    for storage, size in (("float32", 4), ("sq8", 1)):
        settings: dict[str, Any] = {"ef_search": wide}
        if storage == "sq8":
            settings |= {"storage": storage, "refine": 2}
        yield Plan(
            "hnsw",
            settings,
            size * work.rows * work.dim + links,
            _GRAPH_RECALL,
            check + _LINKED * steps * work.rows * work.dim / machine.scans,
            _WALKED * steps * wide * work.queries * work.dim / machine.scans,
        )


def expected_recall(probed: int, lists: int) -> float:
    """Share of the true nearest in the `probed` nearest of `lists` lists.

    1 - exp(-1.4 p^0.6 / L^0.25), fitted to 100,000 and 1,000,000 synthetic descriptors; all lists
    hold all.
    """
    if probed >= lists:
        return 1.0
    return 1 - math.exp(-_RECALL_RATE * probed**_RECALL_POWER / lists**0.25)


def lists_to_probe(recall: float, lists: int) -> int:
    """The least number of lists that `expected_recall` trusts with the recall."""
    if recall >= 1:
        return lists
    needed = -math.log(1 - recall) * lists**0.25 / _RECALL_RATE
    return max(1, min(lists, math.ceil(needed ** (1 / _RECALL_POWER))))


def _products(work: Work, queries: int) -> float:
    return float(queries) * work.rows * work.dim
