"""Name the landmarks of photos by the votes of their nearest train photos.

landmark recognize query=STORE train=STORE output=DIR
landmark recognize query=VALIDATION train=STORE output=VALIDATED
landmark fit fit=calibration train=VALIDATED output=FITTED
landmark recognize query=STORE train=STORE calibration=FITTED precision=0.95 output=DIR
landmark recognize query=STORE train=STORE distractors=STORE output=DIR
landmark recognize query=TRAIN train=TRAIN hold_out=0.25 output=LEAVE_ONE_OUT
torchrun --nproc-per-node 2 recognize.py query=STORE train=STORE output=DIR

Writes a submission, the predictions and, if the queries have landmarks, metrics. A query of a
landmark that train lacks counts as a photo without a landmark.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from landmark.cli._command import command
from landmark.cli._jobs import default_output
from landmark.disk.lock import locked
from landmark.error import UserError
from landmark.processes import broadcast, notice, rank, silence_other_ranks
from landmark.settings import Seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from landmark.artifact.calibration import Calibration
    from landmark.artifact.recognition import Recognition
    from landmark.recognize.recognizer import CountInliers, Predictions, Recognizer
    from landmark.recognize.stores import RecognitionStores
    from landmark.report.matches import LocalMatches


@dataclass(frozen=True)
class Recognize:
    """Own settings of a recognition; conf/recognize.yaml describes them."""

    query: str
    train: str
    distractors: str | None
    output: str | None
    overwrite: bool
    k: PositiveInt
    candidates: PositiveInt
    temperature: Annotated[float, Field(ge=1e-4)] | None
    rival: Annotated[float, Field(ge=0, le=1)]
    verified: PositiveInt
    inliers: NonNegativeFloat
    processes: PositiveInt | None
    centres: str | None
    centre_weight: NonNegativeFloat
    train_distractors: PositiveInt
    query_distractors: PositiveInt
    demote: Annotated[int, Field(ge=2)] | None
    calibration: str | None
    precision: Annotated[float, Field(gt=0, lt=1)] | None
    hold_out: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    report: NonNegativeInt
    allow_mixed: bool
    submission: bool
    allow_self: bool

    def __post_init__(self) -> None:
        if self.precision is not None and self.calibration is None:
            raise UserError(
                f"precision={self.precision:g} needs to know how sure a score is. Pass "
                "calibration=FITTED, which fit.py fit=calibration writes."
            )


@command(Recognize)
def main(settings: Recognize, config: DictConfig) -> None:
    """Check the configuration, then recognize."""
    own_output = settings.output or (str(default_output("recognize")) if rank() == 0 else "")
    output = Path(broadcast(own_output))
    with silence_other_ranks(), locked(output) if rank() == 0 else nullcontext():
        recognize(settings, config, output)
        print(f"wrote {output}")


def recognize(settings: Recognize, config: DictConfig, output: Path) -> None:
    """Recognize the queries, print the metrics, and write the folder `output`."""
    from landmark.artifact.calibration import Calibration
    from landmark.artifact.recognition import PREDICTIONS
    from landmark.artifact.submission import check_can_predict
    from landmark.disk.atomic import check_can_write
    from landmark.recognize.evaluation import above, evaluate
    from landmark.recognize.stores import RecognitionStores
    from landmark.report.photos import StorePhotos
    from landmark.report.recognition import write_report
    from landmark.search.sharded import shard_search

    # --- checks: everything that can fail in a second fails here ---
    check_can_write(output, settings.overwrite, marker=PREDICTIONS)
    search = shard_search(instantiate(config.search))
    verifier = instantiate(config.get("verify"))
    recognizer = make_recognizer(settings)
    calibration = Calibration.open(settings.calibration) if settings.calibration else None
    stores = RecognitionStores.open(
        settings.query,
        settings.train,
        settings.distractors,
        settings.allow_mixed,
        settings.hold_out,
        settings.seed,
    )
    stores.check_k(settings.k)
    meta = record(settings, config, stores)
    threshold = None
    if calibration is not None:
        calibration.check_fits(meta["settings"], str(settings.calibration))
        if settings.precision is not None:
            threshold = calibration.threshold(settings.precision)
    if settings.submission:
        check_can_predict(stores.query.ids, stores.names)
    if verifier is not None and not settings.allow_mixed:
        check_same_local(stores, verifier.features)
    count_inliers = inlier_counter(stores, verifier, settings.processes)
    own_rows = stores.own_rows_to_exclude(settings.allow_self)
    source = instantiate(config.get("data"))
    print(stores, flush=True)

    # --- recognize ---
    import faiss  # noqa: F401 - loaded before the search, which is measured

    start = time.perf_counter()
    predictions = recognizer(
        stores.query.vectors,
        search.build(stores.train.vectors),
        stores.codes,
        own_rows=own_rows,
        distractors=None
        if stores.distractors is None
        else search.build(stores.distractors.vectors),
        own_distractor_rows=stores.own_distractor_rows,
        count_inliers=count_inliers,
        centres=centres_of(settings, stores),
    )
    seconds = time.perf_counter() - start

    # --- evaluate and write ---
    if rank() == 0:
        found = name_predictions(predictions, stores, calibration, meta)
        kept = found if threshold is None else above(found, threshold)
        if found.positives:
            kept = replace(kept, metrics=evaluate(found, predictions, stores.names, kept))
        print_results(kept, settings, threshold, seconds)
        write(output, kept, found, threshold, settings)
        if settings.report:
            query, train = (
                StorePhotos(store, None if source is None else source.read(split))
                for store, split in ((stores.query, "query"), (stores.train, "train"))
            )
            page, worst = output / "report.html", settings.report
            matches = matches_of(stores, verifier)
            write_report(page, kept, found, predictions, query, train, meta, worst, matches)


def make_recognizer(settings: Recognize) -> "Recognizer":
    """Return the recognizer of the command's settings."""
    from landmark.recognize.recognizer import Recognizer

    return Recognizer(
        k=settings.k,
        candidates=settings.candidates,
        temperature=settings.temperature,
        rival=settings.rival,
        verified=settings.verified,
        inliers=settings.inliers,
        centres=settings.centre_weight if settings.centres else 0.0,
        train_distractors=settings.train_distractors,
        query_distractors=settings.query_distractors,
        demote=settings.demote,
    )


def record(settings: Recognize, config: DictConfig, stores: "RecognitionStores") -> dict[str, Any]:
    """Return the settings that a calibration must share, and the metadata of the stores."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    names = ["k", "candidates", "temperature", "rival", "demote"]
    names += ["verified", "inliers"] if plain.get("verify") else []
    names += ["centre_weight"] if settings.centres else []
    of_distractors = ["train_distractors", "query_distractors"]
    names += of_distractors if settings.distractors else []
    centres = settings.centres if settings.centres in (None, "means") else "head"
    return {
        "settings": {
            **{name: plain[name] for name in names},
            "verify": plain.get("verify"),
            "centres": centres,
            **stores.record(),
        },
        "search": plain["search"],
        "hold_out": settings.hold_out,
        "seed": settings.seed,
        "calibration": settings.calibration,
        "precision": settings.precision,
        "stores": {
            name: {"path": plain[name], **store.meta} for name, store in stores.by_name.items()
        },
    }


def check_same_local(stores: "RecognitionStores", name: str) -> None:
    """Check that queries and train photos have local features of the same settings."""
    from landmark.artifact.local_features import check_comparable
    from landmark.rerank.stores import MIXED

    query, train = stores.query, stores.train
    settings = (store.local(name).settings for store in (query, train))
    check_comparable(name, query.path, next(settings), train.path, next(settings), MIXED)


def inlier_counter(
    stores: "RecognitionStores",
    verifier: Any,  # noqa: ANN401
    processes: int | None,
) -> "CountInliers | None":
    """Return the function that verifies pairs of query and train rows; None without verify=."""
    if verifier is None:
        return None
    from landmark.verify import verify_pairs

    query: Any = stores.query.local(verifier.features)
    train: Any = stores.train.local(verifier.features)
    return lambda pairs: verify_pairs(verifier, query, train, pairs, processes=processes).inliers


def matches_of(stores: "RecognitionStores", verifier: Any) -> "LocalMatches | None":  # noqa: ANN401
    """Return the matches that the page draws; None without verify=."""
    if verifier is None:
        return None
    from landmark.report.matches import LocalMatches

    name = verifier.features
    query: Any = {name: stores.query.local(name)}
    train: Any = {name: stores.train.local(name)}
    return LocalMatches({name: verifier}, query, train)


def centres_of(settings: Recognize, stores: "RecognitionStores") -> "NDArray[np.float32] | None":
    """Return the class centres that vote; None without centres=."""
    from landmark.recognize.centres import head_centres, mean_centres

    if settings.centres is None or not settings.centre_weight:
        return None
    if settings.centres == "means":
        return mean_centres(stores.train.vectors, stores.codes)
    return head_centres(settings.centres, stores.names, stores.train.dim)


def name_predictions(
    predictions: "Predictions",
    stores: "RecognitionStores",
    calibration: "Calibration | None",
    meta: dict[str, Any],
) -> "Recognition":
    """Return the predictions with the ids of queries and landmarks."""
    from landmark.artifact.recognition import Recognition
    from landmark.recognize.evaluation import named

    return Recognition(
        ids=stores.query.ids,
        landmarks=named(predictions.landmarks, stores.names),
        scores=predictions.scores,
        confidences=None if calibration is None else calibration(predictions.scores),
        truth=stores.truth,
        meta=meta,
    )


def print_results(
    kept: "Recognition", settings: Recognize, threshold: float | None, seconds: float
) -> None:
    """Print the metrics beside those of the nearest train photo, and what the threshold keeps."""
    metrics, queries = kept.metrics, len(kept.ids)
    if metrics:
        nearest, own = metrics["nearest"], metrics.get("all_predictions", metrics)
        print(f"1-nn        GAP {nearest['gap']:.4f}   top-1 {nearest['top_1']:.4f}")
        print(f"recognize   GAP {own['gap']:.4f}   top-1 {own['top_1']:.4f}   {seconds:.1f} s")
        print(
            f"{metrics['positives']:,} of {queries:,} queries show a landmark of train",
            flush=True,
        )
    elif kept.truth is not None:
        notice(
            "no query shows a landmark that can be predicted, so there are no metrics. Pass "
            "queries of the landmarks of train."
        )
    if threshold is not None:
        line = f"precision {settings.precision:g}: {int(kept.is_predicted.sum()):,} of {queries:,} "
        line += f"predictions kept (score >= {threshold:.3f})"
        if metrics:
            line += f", of these right {metrics['precision']:.4f}, recall {metrics['recall']:.4f}"
        print(line, flush=True)


def write(
    output: Path,
    kept: "Recognition",
    found: "Recognition",
    threshold: float | None,
    settings: Recognize,
) -> None:
    """Write all predictions, the submission of those that are kept, metrics and their picture."""
    from landmark.artifact.picture import write_png
    from landmark.artifact.recognition import PREDICTIONS
    from landmark.artifact.submission import write_recognition
    from landmark.disk.atomic import atomic_folder
    from landmark.report.precision_recall import precision_recall_figure

    metrics = {**kept.metrics, **({} if threshold is None else {"threshold": threshold})}
    with atomic_folder(output, settings.overwrite, marker=PREDICTIONS) as folder:
        replace(found, metrics=metrics).write_into(folder)
        if settings.submission:
            write_recognition(folder / "submission.csv", kept)
        if kept.metrics:
            figure = precision_recall_figure(found, threshold)
            write_png(figure, folder / "precision_recall.png", dpi=150)
