"""Search a gallery, re-rank what it finds, write rankings, a submission and a report.

landmark rerank query=STORE gallery=STORE output=DIR
landmark rerank query=STORE gallery=STORE train=STORE 'rerank=[alpha_qe,two_stage]' output=DIR
landmark rerank query=STORE gallery=STORE rerank=alpha_qe rerank.alpha_qe.n=5 output=DIR
landmark rerank query=STORE gallery=STORE data=roxford5k data.root=OXFORD k=4993 output=DIR
landmark rerank query=STORE 'gallery=[STORE,DISTRACTORS]' search=auto output=DIR
torchrun --nproc-per-node 2 rerank.py query=STORE gallery=STORE output=DIR

Re-rankers apply in the order given. Where the stores hold landmarks, or data= has the ground truth,
each step prints its mAP.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from landmark.cli._command import command
from landmark.cli._jobs import unused_folder
from landmark.error import UserError
from landmark.search.processes import among_processes, first_process_speaks, rank

if TYPE_CHECKING:
    from landmark.rerank.retrieval import Search
    from landmark.rerank.stores import Stores
    from landmark.score.ground_truth import GroundTruth


@dataclass(frozen=True)
class Rerank:
    """Settings of a re-ranking besides those of its groups.

    Attributes:
        query: descriptor store of the queries.
        gallery: descriptor store to search; several are searched as one.
        train: descriptor store of photos whose landmarks are known; null: none.
        output: folder to write; null: a new folder under runs/rerank.
        overwrite: replace an existing ranking.
        k: results kept a query; null: 100, or all of a smaller gallery.
        report: worst queries shown in report.html; 0: no report.html.
        allow_mixed: accept stores from different embedders.
    """

    query: str
    gallery: str | list[str]
    train: str | None
    output: str | None
    overwrite: bool
    k: PositiveInt | None
    report: NonNegativeInt
    allow_mixed: bool


@command(Rerank, lists={"rerank"})
def main(settings: Rerank, config: DictConfig) -> None:
    """Check the configuration, then search and re-rank."""
    del settings
    output = Path(config.output) if config.output else default_output()
    with first_process_speaks():
        rerank(config, output)
        print(f"wrote {output}")


def rerank(config: DictConfig, output: Path) -> None:
    """Searches, re-ranks, prints what each step gains, and writes the folder `output`."""
    from landmark.artifact.rankings import Rankings
    from landmark.artifact.submission import write_retrieval
    from landmark.disk.atomic import atomic_folder, check_can_write
    from landmark.report.photos import StorePhotos
    from landmark.report.ranking import write_report
    from landmark.rerank.chain import steps
    from landmark.rerank.protocol import protocol
    from landmark.rerank.retrieval import Retrieval
    from landmark.rerank.stores import Stores
    from landmark.score.ground_truth import find_ground_truth

    check_can_write(output, config.overwrite, marker="meta.json")
    search = among_processes(instantiate(config.search))
    chain = {str(name): instantiate(settings) for name, settings in chain_of(config).items()}
    needs_train = [name for name, step in chain.items() if getattr(step, "needs_train", False)]
    if needs_train and not config.train:
        raise UserError(f"rerank={needs_train[0]} needs photos of known landmarks: train=STORE")
    stores = Stores.open(config.query, config.gallery, config.train, config.allow_mixed)
    config.k = stores.results(config.k)
    source = instantiate(config.get("data"))
    query_table, gallery_table = (
        None if source is None else source.read(split) for split in ("query", "gallery")
    )
    truth = find_ground_truth(stores.query, stores.gallery, query_table, gallery_table)
    print(stores, flush=True)

    def searched() -> Retrieval:
        return stores.search(search, config.k).with_ids(stores.query.ids, stores.gallery.ids)

    done = []
    for step in steps(searched, chain, truth):
        print(step.line(truth.labels if truth else {}), flush=True)
        done.append(step)
    written = record(config, {name: store.meta for name, store in stores.by_name.items()})
    data = HydraConfig.get().runtime.choices.get("data")
    metrics = {
        **step.metrics,
        "steps": [step.record() for step in done],
        "protocol": protocol(stores.by_name, truth, config.k, data, written["steps"]),
    }
    accuracy = nearest_train_accuracy(stores, search, truth)
    if accuracy is not None:
        metrics["nearest_train_accuracy"] = accuracy
        print(f"1-nn landmark of train {accuracy:.4f}", flush=True)

    if rank() > 0:
        return
    rankings = Rankings(
        step.rows,
        step.scores,
        stores.query.ids,
        stores.gallery.ids,
        meta=written,
        metrics=metrics,
    )
    with atomic_folder(output, config.overwrite, marker="meta.json") as folder:
        rankings.write_into(folder)
        write_retrieval(folder / "submission.csv", rankings, k=100)
    if config.report:
        write_report(
            output / "report.html",
            done,
            StorePhotos(stores.query, query_table),
            StorePhotos(stores.gallery, gallery_table),
            truth,
            rankings.meta,
            accuracy,
            worst=config.report,
        )


def nearest_train_accuracy(
    stores: "Stores", search: "Search", truth: "GroundTruth | None"
) -> float | None:
    """Search the train photos for each query's landmark; None where either is not known."""
    from landmark.score.ground_truth import LandmarkGroundTruth

    train = stores.train
    if train is None or train.landmark_ids is None or not isinstance(truth, LandmarkGroundTruth):
        return None
    rows, _ = search(stores.query.vectors, train.vectors, 1)
    return truth.nearest_accuracy(rows, train.landmark_ids)


def default_output() -> Path:
    """The folder of this job in a sweep, or of hydra.run.dir; else a new one below runs."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder != Path.cwd():
        return folder
    return unused_folder(f"runs/rerank/{datetime.now():%Y-%m-%d/%H-%M-%S}")


def chain_of(config: DictConfig) -> DictConfig:
    """Settings of each re-ranker, in the order given; an empty chain leaves no key."""
    return config.get("rerank") or OmegaConf.create({})


def record(config: DictConfig, stores: dict[str, dict]) -> dict:
    """Every step with its settings, and what the stores say of themselves."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    steps = {"search": plain["search"], **plain.get("rerank", {})}
    return {
        "k": plain["k"],
        "steps": [{"step": name, **settings} for name, settings in steps.items()],
        "stores": {name: {"path": plain[name], **meta} for name, meta in stores.items()},
    }
