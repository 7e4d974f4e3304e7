"""What each search would cost for a gallery: bytes, seconds and recall, reckoned beforehand.

The seconds come from two speeds measured on the machine at hand and from counting multiply-adds;
the expected recalls from measurements on synthetic descriptors of landmarks (docs/scale.md). Both
are to choose by, not to rely on: the recall is measured afterwards.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
_KMEANS_ROUNDS = 10
_ROWS_A_LIST = 64  # trained on
_CENTRES = 256  # of a byte of code
_CODE_ROWS = 65536  # trained on
_CODE_ROUNDS = 25
_BLOCK_ROWS = 65536
_RECALL_RATE, _RECALL_POWER = 1.4, 0.6
_CODES_KEEP = 0.98  # of the recall, by codes of D / 8 bytes whose best 4 k are scored exactly
_GRAPH_RECALL = 0.97  # of 32 links a photo, ef_search = 256 or 2 k


@dataclass(frozen=True)
class Work:
    """What is to be searched.

    Attributes:
        queries: Q.
        rows: N, of the gallery.
        dim: D.
        k: Results a query.
        value_bytes: Of a stored value: 2 or 4.
        searches: How often the gallery is searched with one index.
        sample: Queries whose exact neighbours measure the recall.
    """

    queries: int
    rows: int
    dim: int
    k: int
    value_bytes: int = 4
    searches: int = 1
    sample: int = 200


@dataclass(frozen=True)
class Machine:
    """What searches it.

    Attributes:
        products: Multiply-adds a second of many queries with a block of vectors.
        scans: Multiply-adds a second of few queries with vectors that come from memory.
        memory: Bytes for the index.
    """

    products: float
    scans: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """One way to search.

    Attributes:
        search: Its name on the command line.
        settings: Its keys.
        bytes: Of the index, and of what is held while it is built.
        recall: Expected share of the true k nearest among those found.
        build: Seconds to build the index, and to measure the recall.
        seconds: Seconds a search of all queries.
    """

    search: str
    settings: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    recall: float = 1.0
    build: float = 0.0
    seconds: float = 0.0

    def total(self, work: Work) -> float:
        """Seconds in all."""
        return self.build + work.searches * self.seconds

    def line(self, work: Work) -> str:
        """One line to print."""
        settings = " ".join(f"{key}={value}" for key, value in self.settings.items())
        return (
            f"  {self.search:<6} {self.bytes / GIB:8.2f} GiB   recall {self.recall:.2f}   "
            f"{self.total(work):9.1f} s   {settings}"
        ).rstrip()


def plans(work: Work, machine: Machine, recall: float) -> list[Plan]:
    """Every way to search that is weighed, whether or not it fits.

    Args:
        work: What is to be searched.
        machine: What searches it.
        recall: Share of the true k nearest to be found, 0 to 1; the settings aim at it.
    """
    return [_flat(work, machine), *_inverted(work, machine, recall), *_graphs(work, machine)]


def best(found: list[Plan], work: Work, machine: Machine, recall: float) -> Plan:
    """The quickest plan that fits the memory and is expected to reach the recall."""
    able = [plan for plan in found if plan.bytes <= machine.memory and plan.recall >= recall]
    return min(able or found[:1], key=lambda plan: plan.total(work))


def shortest(found: list[Plan], chosen: Plan, work: Work) -> list[Plan]:
    """The plans to show: of each search and storage the chosen one, or else the quickest."""
    shown: dict[tuple[str, str], Plan] = {}
    for plan in sorted(found, key=lambda plan: (plan is not chosen, plan.total(work))):
        shown.setdefault((plan.search, plan.settings.get("storage", "")), plan)
    return sorted(shown.values(), key=lambda plan: plan.total(work))


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
        probed = lists_to_probe(recall, lists)
        expected = expected_recall(probed, lists)
        trained = min(work.rows, _ROWS_A_LIST * lists)
        train = _KMEANS_ROUNDS * trained * lists * work.dim / machine.products
        assign = work.rows * lists * work.dim / machine.products
        ask = work.queries * lists * work.dim / machine.products
        compared = work.queries * probed / lists * work.rows
        overhead = 4 * work.dim * (lists + trained) + 8 * work.rows
        settings = {"n_lists": lists, "n_probe": probed}
        for storage, size in (("float32", 4), ("float16", 2), ("sq8", 1)):
            found = settings if storage == "float32" else {**settings, "storage": storage}
            if storage == "sq8":
                found = {**found, "refine": 2}
            yield Plan(
                "ivf",
                found,
                size * work.rows * work.dim + overhead,
                expected,
                train + assign + check,
                ask + compared * work.dim / machine.scans,
            )
        code = max(n for n in range(1, max(1, work.dim // 8) + 1) if work.dim % n == 0)
        train += _CODE_ROUNDS * min(work.rows, _CODE_ROWS) * _CENTRES * work.dim / machine.scans
        encode = work.rows * _CENTRES * work.dim / machine.scans
        refine = 4
        rescored = work.queries * refine * work.k * work.dim
        yield Plan(
            "ivfpq",
            {**settings, "refine": refine},
            code * work.rows + overhead,
            expected * _CODES_KEEP,
            train + assign + encode + check,
            ask + (3 * compared * code + 3 * rescored) / machine.scans,
        )


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
