"""Search a gallery, re-rank the results, write rankings, a submission and a report.

landmark rerank query=STORE gallery=STORE output=DIR
landmark rerank query=STORE gallery=STORE train=STORE 'rerank=[alpha_qe,two_stage]' output=DIR
landmark rerank query=STORE gallery=STORE rerank=alpha_qe rerank.alpha_qe.n=5 output=DIR
landmark rerank query=STORE gallery=STORE data=roxford5k data.root=OXFORD output=DIR
landmark rerank query=STORE gallery=STORE map_at=1000 'recall_at=[1,10,100]' output=DIR
landmark rerank query=STORE gallery=STORE data=table data.root=PLACES radius=25 output=DIR
landmark rerank query=STORE 'gallery=[STORE,DISTRACTORS]' search=auto output=DIR
torchrun --nproc-per-node 2 rerank.py query=STORE gallery=STORE output=DIR

Re-rankers apply in the order of the list. If the stores contain landmarks, or data= has the ground
truth, each step prints its mAP.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from landmark.cli._command import command
from landmark.cli._jobs import default_output
from landmark.disk.lock import locked
from landmark.error import UserError
from landmark.processes import broadcast, notice, rank, silence_other_ranks
from landmark.settings import Ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from landmark.rerank.chain import Reranker, Step
    from landmark.rerank.retrieval import Retrieval
    from landmark.rerank.stores import Stores
    from landmark.score.evaluation import GroundTruth
    from landmark.search.index import Index, Search


@dataclass(frozen=True)
class Rerank:
    """Own settings of a re-ranking; conf/rerank.yaml describes them."""

    query: str
    gallery: str | list[str]
    train: str | None
    output: str | None
    overwrite: bool
    k: PositiveInt | None
    map_at: Ranks | None
    recall_at: Ranks | None
    radius: PositiveFloat | None
    report: NonNegativeInt
    allow_mixed: bool
    submission: bool
    allow_self: bool


@command(Rerank, lists={"rerank"})
def main(settings: Rerank, config: DictConfig) -> None:
    """Check the configuration, then search and re-rank."""
    own_output = settings.output or (str(default_output("rerank")) if rank() == 0 else "")
    output = Path(broadcast(own_output))
    with silence_other_ranks(), locked(output) if rank() == 0 else nullcontext():
        rerank(settings, config, output)
        print(f"wrote {output}")


def rerank(settings: Rerank, config: DictConfig, output: Path) -> None:
    """Search, re-rank, print the metrics of each step, and write the folder `output`."""
    from landmark.artifact.submission import check_can_submit
    from landmark.disk.atomic import check_can_write
    from landmark.report.matches import LocalMatches
    from landmark.report.photos import StorePhotos
    from landmark.report.ranking import write_report
    from landmark.rerank.spatial import Spatial
    from landmark.rerank.stores import Stores
    from landmark.score.evaluation import Cutoffs
    from landmark.score.ground_truth import find_ground_truth
    from landmark.search.sharded import shard_search

    # --- checks: everything that can fail in a second fails here ---
    check_can_write(output, settings.overwrite, marker="meta.json")
    search = shard_search(instantiate(config.search))
    rerankers = {name: instantiate(step) for name, step in chain_of(config).items()}
    needs_train = [name for name, step in rerankers.items() if getattr(step, "needs_train", False)]
    if needs_train and not settings.train:
        raise UserError(
            f"rerank={needs_train[0]} needs photos of known landmarks. Pass train=STORE."
        )
    local = {name for step in rerankers.values() for name in getattr(step, "needs_local", ())}
    stores = Stores.open(
        settings.query, settings.gallery, settings.train, settings.allow_mixed, sorted(local)
    )
    if settings.submission:
        check_can_submit(stores.query.ids, stores.gallery.ids)
    own_rows = stores.own_rows_to_exclude(settings.allow_self)

    # --- ground truth: each table of data= is read once ---
    source = instantiate(config.get("data"))
    query_table, gallery_table = (
        None if source is None else source.read(split) for split in ("query", "gallery")
    )
    # The metrics of ROxford and RParis are defined on rankings of the whole gallery.
    is_revisited = query_table is not None and query_table.ground_truth is not None
    is_chosen = (settings.map_at, settings.recall_at) != (None, None)
    deepest = Cutoffs.of(settings.map_at, settings.recall_at).deepest if is_chosen else 0
    k = stores.resolve_k(settings.k, whole=is_revisited, deepest=deepest)
    print(stores, flush=True)
    truth = find_ground_truth(
        stores.query,
        stores.gallery,
        query_table,
        gallery_table,
        k=k,
        own_rows=own_rows,
        map_at=settings.map_at,
        recall_at=settings.recall_at,
        radius=settings.radius,
    )

    # --- search, then re-rank ---
    import faiss  # noqa: F401 - loaded before the first step, which is measured

    steps, last, recall, train_index = run_steps(
        stores, search, rerankers, truth, k, settings.allow_self
    )
    own_train_rows = None if settings.allow_self else stores.own_train_rows
    accuracy = nearest_train_accuracy(stores, train_index, truth, own_train_rows)
    if accuracy is not None:
        print(f"1-nn landmark of train {accuracy:.4f}", flush=True)

    # --- write ---
    if rank() == 0:
        meta = record(config, k, {name: store.meta for name, store in stores.by_name.items()})
        metrics = {
            **metrics_of(steps, stores, truth, meta, accuracy),
            **recall,
            **({} if own_rows is None else {"own_photos_excluded": int((own_rows >= 0).sum())}),
        }
        write_rankings(output, last, stores, meta, metrics, settings)
        if settings.report:
            query = StorePhotos(stores.query, query_table)
            gallery = StorePhotos(stores.gallery, gallery_table)
            page, worst = output / "report.html", settings.report
            matches = {
                name: LocalMatches(step.verify, stores.query_local, stores.gallery_local)
                for name, step in rerankers.items()
                if isinstance(step, Spatial)
            }
            write_report(
                page, steps, query, gallery, truth, meta, accuracy, worst=worst, matches=matches
            )


def run_steps(
    stores: "Stores",
    search: "Search",
    rerankers: Mapping[str, "Reranker"],
    truth: "GroundTruth | None",
    k: int,
    allow_self: bool,
) -> tuple[list["Step"], "Step", dict[str, float], "Index | None"]:
    """Search and re-rank; print each step.

    Returns:
        The steps with their first results, the last step with its complete ranking, the only one
        that stays in memory, the recall of the search, and the index of the train photos.
    """
    from landmark.report.ranking import RESULTS
    from landmark.rerank.chain import run_chain

    searched: list[Retrieval] = []

    def first_search() -> "Retrieval":
        searched.append(stores.search(search, k, allow_self))
        return searched[0]

    labels = truth.labels if truth else {}
    steps: list[Step] = []
    for step in run_chain(first_search, rerankers, truth):
        print(step.summary(labels), flush=True)
        steps.append(step.first(RESULTS))
        if searched:  # measured outside the time of the step, and then freed
            retrieval = searched.pop()
            recall, train_index = search_recall(retrieval), retrieval.train_index
            del retrieval
    return steps, step, recall, train_index


def search_recall(retrieval: "Retrieval") -> dict[str, float]:
    """Measure and print the recall of an approximate search; return its entries of metrics.json."""
    from landmark.search.recall import LEAST_RECALL, measure_recall

    recall = measure_recall(
        retrieval.index, retrieval.query, retrieval.rows, own_rows=retrieval.own_rows
    )
    if recall is None:
        return {}
    print(f"search recall@{recall.k} {recall.value:.4f} on {recall.queries} queries", flush=True)
    if recall.value < LEAST_RECALL:
        notice(
            f"the search finds only {recall.value:.1%} of the nearest {recall.k} photos (measured "
            f"on {recall.queries} queries). Raise {retrieval.index.settings.widened_by}, or pass "
            "search=flat."
        )
    return {
        f"search_recall_at_{recall.k}": recall.value,
        "search_recall_queries": recall.queries,
    }


def nearest_train_accuracy(
    stores: "Stores",
    train_index: "Index | None",
    truth: "GroundTruth | None",
    own_train_rows: "NDArray[np.intp] | None",
) -> float | None:
    """Return the accuracy of the nearest train photo's landmark; None without landmarks."""
    from landmark.score.ground_truth import LandmarkGroundTruth

    train = stores.train
    if train is None or train.landmark_ids is None or not isinstance(truth, LandmarkGroundTruth):
        return None
    assert train_index is not None  # `Retrieval.from_search` builds it for train photos
    rows, _ = train_index.search_others(stores.query.vectors, 1, own_train_rows)
    return truth.nearest_accuracy(rows, train.landmark_ids)


def metrics_of(
    steps: Sequence["Step"],
    stores: "Stores",
    truth: "GroundTruth | None",
    meta: Mapping[str, Any],
    accuracy: float | None,
) -> dict[str, Any]:
    """Return the content of metrics.json."""
    from landmark.rerank.protocol import protocol

    data = HydraConfig.get().runtime.choices.get("data")
    return {
        **steps[-1].metrics,
        "steps": [step.record() for step in steps],
        "protocol": protocol(stores.by_name, truth, meta["k"], data, meta["steps"]),
        **({} if accuracy is None else {"nearest_train_accuracy": accuracy}),
    }


def write_rankings(
    output: Path,
    step: "Step",
    stores: "Stores",
    meta: dict[str, Any],
    metrics: dict[str, Any],
    settings: Rerank,
) -> None:
    """Write the rankings of the last step and, with submission=true, the submission."""
    from landmark.artifact.rankings import Rankings
    from landmark.artifact.submission import write_retrieval
    from landmark.disk.atomic import atomic_folder

    rankings = Rankings(
        step.rows, step.scores, stores.query.ids, stores.gallery.ids, meta=meta, metrics=metrics
    )
    with atomic_folder(output, settings.overwrite, marker="meta.json") as folder:
        rankings.write_into(folder)
        if settings.submission:
            write_retrieval(folder / "submission.csv", rankings, k=100)


def chain_of(config: DictConfig) -> Mapping[str, Any]:
    """Return the settings of each re-ranker, in order; an empty chain has no key in `config`."""
    chain = config.get("rerank") or {}
    return {str(name): settings for name, settings in chain.items()}


def record(config: DictConfig, k: int, stores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the steps with their settings, and the metadata of the stores."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    steps = {"search": plain["search"], **plain.get("rerank", {})}
    return {
        "k": k,
        "steps": [{"step": name, **settings} for name, settings in steps.items()],
        "stores": {name: {"path": plain[name], **meta} for name, meta in stores.items()},
    }
