"""A search that plans: what fits, what is quick, what it really finds."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search.exact import check_shapes
from landmark.search.flat import Flat
from landmark.search.gpu import check_device, gpus_of
from landmark.search.hnsw import HNSW
from landmark.search.indexed import Indexed, check_least
from landmark.search.ivf import IVF
from landmark.search.ivfpq import IVFPQ
from landmark.search.kept import Kept
from landmark.search.memory import memory_at_hand
from landmark.search.plan import GIB, Machine, Plan, Work, best, shortest
from landmark.search.recall import recall_at_k
from landmark.search.reckoning import plans
from landmark.search.speed import speeds

_SMALL = 10**10  # multiply-adds that any machine does exactly in a second
_KINDS: dict[str, type[Indexed]] = {"ivf": IVF, "ivfpq": IVFPQ, "hnsw": HNSW}


@dataclass(eq=False)
class _Choice:
    """What was chosen for a gallery, and for which questions."""

    search: Flat | Indexed
    queries: int
    k: int


class Auto:
    """Chooses among exact search, inverted lists, codes and graphs, and says why.

    It reckons bytes, seconds and recall of each from the sizes, the memory that is free and two
    speeds that it measures on the device, takes the quickest that fits and should reach the recall,
    and prints them. Then it measures the recall that it really gets, on a sample of the queries
    against exact search, and looks wider until that is reached, at last exactly.

    The plan holds for a gallery until it is asked twice as many queries or more results.

    Args:
        recall: Share of the true k nearest to be found; 1 is exact.
        memory: GiB for the index; none: four fifths of what is free.
        searches: How often the gallery is to be searched with as many queries: building an index is
            shared among them. Query expansion searches twice.
        sample: Queries whose exact neighbours measure the recall.
        seed: Of the sample and of the training.
        device: As of `Flat`.
        block_rows: Gallery rows read at once.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        recall: float = 0.95,
        memory: float | None = None,
        searches: int = 1,
        sample: int = 200,
        seed: int = 0,
        device: str = "auto",
        block_rows: int = 65536,
    ) -> None:
        check_device(device)
        if not 0 < recall <= 1:
            raise UserError(f"search.recall={recall} must be above 0 and at most 1")
        if memory is not None and memory <= 0:
            raise UserError(f"search.memory={memory} must be above 0 (GiB)")
        for name, value in (
            ("searches", searches),
            ("sample", sample),
            ("block_rows", block_rows),
        ):
            check_least(name, value, 1)
        self.recall = recall
        self.memory = memory
        self.searches = searches
        self.sample = sample
        self.seed = seed
        self.device = device
        self.block_rows = block_rows
        self._kept: Kept[_Choice] = Kept()

    def __call__(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search a gallery.

        Args:
            query: (Q, D).
            gallery: (N, D), C order; may be several stacked (`StackedVectors`).
            k: Neighbours a query; may be more than N.

        Returns:
            rows (Q, k) int32 by falling score, -1 where no more were found; and their scores
            (Q, k) float32, -inf there. Equal scores come in the order of their rows.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
        """
        check_shapes(query, gallery, k)
        choice = self._kept.get(gallery)
        if choice is None or len(query) > 2 * choice.queries or k > choice.k:
            self._kept.make_room()
            choice = _Choice(self._chosen(query, gallery, k), len(query), k)
            self._kept.put(gallery, choice)
        return choice.search(query, gallery, k)

    def _chosen(
        self, query: np.ndarray, gallery: np.ndarray | StackedVectors, k: int
    ) -> Flat | Indexed:
        flat = Flat(self.device, self.block_rows)
        rows, dim = gallery.shape
        sizes = f"{len(query):,} queries in {rows:,} x {dim}, k={k}"
        if self.recall == 1 or len(query) * rows * dim <= _SMALL:
            why = "recall=1 is asked for" if self.recall == 1 else "exact search is a moment's work"
            print(f"search=auto: {sizes}: flat, as {why}", flush=True)
            return flat
        work = Work(len(query), rows, dim, k, gallery.dtype.itemsize, self.searches, self.sample)
        machine = self._machine(flat, query, gallery)
        weighed = plans(work, machine, self.recall)
        plan = best(weighed, work, machine, self.recall)
        print(
            f"search=auto: {sizes}; {machine.products / 1e9:.0f} G multiply-adds a second in "
            f"blocks, {machine.scans / 1e9:.1f} G one by one; {machine.memory / GIB:.1f} GiB for "
            "an index"
        )
        for one in shortest(weighed, plan, work):
            fits = one.bytes <= machine.memory
            mark = "chosen" if one is plan else "" if fits else "does not fit"
            print(f"{one.line(work)}   {mark}".rstrip(), flush=True)
        if plan.search == "flat":
            return flat
        return self._proven(plan, flat, query, gallery, k)

    def _machine(
        self, flat: Flat, query: np.ndarray, gallery: np.ndarray | StackedVectors
    ) -> Machine:
        gpus = gpus_of(self.device)
        memory = memory_at_hand() if self.memory is None else self.memory * GIB
        if gpus:
            import torch

            memory = min(memory, sum(torch.cuda.mem_get_info(number)[0] for number in gpus))
        return Machine(
            *speeds(flat, query, gallery), int(memory * (0.8 if self.memory is None else 1))
        )

    def _proven(
        self,
        plan: Plan,
        flat: Flat,
        query: np.ndarray,
        gallery: np.ndarray | StackedVectors,
        k: int,
    ) -> Flat | Indexed:
        """The search of a plan, looking as wide as the recall needs; or the exact one."""
        settings: dict[str, Any] = {**plan.settings, "seed": self.seed}
        if plan.search != "hnsw":
            settings["device"] = self.device
        search = _KINDS[plan.search](**settings, block_rows=self.block_rows)
        drawn = np.random.default_rng(self.seed).choice(
            len(query), min(self.sample, len(query)), replace=False
        )
        asked = np.ascontiguousarray(query[np.sort(drawn)])
        true_rows, exact_seconds = _timed(flat, asked, gallery, k)
        _, build_seconds = _timed(search, asked[:1], gallery, k)
        print(f"  built in {build_seconds:.1f} s", flush=True)
        while True:
            rows, seconds = _timed(search, asked, gallery, k)
            reached = recall_at_k(rows, true_rows)
            print(
                f"  measured on {len(asked)} queries: recall@{k} {reached:.4f} in {seconds:.2f} s, "
                f"flat {exact_seconds:.2f} s: {_command(plan, search)}",
                flush=True,
            )
            if seconds >= exact_seconds:
                print(f"  flat is as quick as recall {self.recall} by {plan.search}", flush=True)
                return flat
            if reached >= self.recall:
                return search
            if not search.widen(len(gallery), k):
                print(f"  {plan.search} cannot find more: flat", flush=True)
                return flat


def _timed(
    search: Flat | Indexed, query: np.ndarray, gallery: np.ndarray | StackedVectors, k: int
) -> tuple[np.ndarray, float]:
    """The rows found, and the seconds it took."""
    began = time.perf_counter()
    rows, _ = search(query, gallery, k)  # type: ignore[arg-type]
    return rows, time.perf_counter() - began


def _command(plan: Plan, search: Flat | Indexed) -> str:
    """What to say on the command line to get this search without planning."""
    now = {key: getattr(search, key) for key in plan.settings}
    return " ".join([f"search={plan.search}", *(f"search.{key}={now[key]}" for key in now)])
