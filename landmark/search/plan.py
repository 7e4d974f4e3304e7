"""Ways to search a gallery, and which of them to take."""

from dataclasses import dataclass, field
from typing import Any

GIB = 2**30


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
