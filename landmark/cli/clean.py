"""Clean a train set: keep the photos that their neighbours of the same landmark confirm.

landmark clean train=STORE output=DIR
landmark clean train=STORE output=DIR geometry=false
landmark clean train=STORE output=DIR verify=inliers_2019
landmark clean train=STORE output=DIR 'min_inliers=[20,30,40,50]' 'min_neighbours=[1,2,3,10]'
landmark clean train=STORE output=DIR audit=STORE
torchrun --nproc-per-node 2 clean.py train=STORE output=DIR

The verified pairs are kept in DIR: a second call with other thresholds verifies nothing again, and
lists of thresholds print a table of what each keeps. The same command resumes an interrupted
verification. Train on the result with data=table data.table=DIR/table.parquet.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from landmark.cli._command import command
from landmark.error import UserError
from landmark.processes import rank, silence_other_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.local_features import LocalFeatureStore
    from landmark.clean.cleaning import Cleaning
    from landmark.clean.pairs import Pairs
    from landmark.clean.selection import Photos, Rule
    from landmark.clean.train_photos import TrainPhotos
    from landmark.data.image_table import ImageTable
    from landmark.verify import Features

INLIERS_2019 = 30  # Yokoo et al., arXiv 2003.11211
AGREEMENT = 0.2
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Clean:
    """Own settings of a cleaning; conf/clean.yaml describes them."""

    train: str
    output: str
    audit: str | None
    overwrite: bool
    geometry: bool
    k: PositiveInt
    candidates: PositiveInt
    others: NonNegativeInt
    neighbours: PositiveInt
    min_neighbours: PositiveInt | list[PositiveInt]
    min_inliers: PositiveInt | list[PositiveInt] | None
    false_rate: Rate | list[Rate] | None
    min_agreement: Share | list[Share] | Literal["auto", "none"]
    duplicate_cosine: Share
    audit_k: PositiveInt
    processes: PositiveInt | None
    report: NonNegativeInt


@command(Clean)
def main(settings: Clean, config: DictConfig) -> None:
    """Check the configuration, then clean."""
    with silence_other_ranks():
        clean(settings, config)
        print(f"wrote {settings.output}")


def clean(settings: Clean, config: DictConfig) -> None:
    """Verify the pairs that the output does not have yet, and apply the thresholds."""
    from landmark.clean.folder import read_meta
    from landmark.clean.grid import as_text, grid_table
    from landmark.disk.lock import locked

    # --- checks: everything that can fail in a second fails here ---
    meta = read_meta(Path(settings.output), settings.overwrite)
    rules = rules_of(settings, config)
    if len(rules) > 1 and settings.audit:
        raise UserError("audit= needs one value of each threshold. Pass no lists.")
    cleaning = prepare(settings, config)
    located = photo_table(config)

    # --- pairs: saved before a threshold is applied ---
    with locked(cleaning.output) if rank() == 0 else nullcontext():
        pairs, photos = cleaning.verified_pairs(meta, settings.overwrite)
        audit = None if cleaning.test is None else cleaning.audit_pairs(meta)
        if rank() > 0:
            return
        # --- thresholds ---
        if len(rules) > 1:
            table = grid_table(pairs, photos, rules, settings.geometry)
            print(as_text(table), flush=True)
            write_grid(cleaning, table)
        else:
            write_cleaning(settings, cleaning, pairs, photos, audit, rules[0], located)


def prepare(settings: Clean, config: DictConfig) -> "Cleaning":
    """Open and check the stores."""
    from landmark.artifact.local_features import check_comparable
    from landmark.clean.cleaning import Cleaning
    from landmark.clean.train_photos import TrainPhotos, local_features, open_test_store
    from landmark.search.sharded import shard_search

    train = TrainPhotos.open(settings.train)
    test = None if settings.audit is None else open_test_store(settings.audit, settings.train)
    verifier = instantiate(config.verify) if settings.geometry else None
    local = test_local = None
    if verifier is not None:
        name = verifier.features
        if test is not None:
            kinds = (store.local(name).settings for store in (test, train.store))
            check_comparable(name, test.path, next(kinds), settings.train, next(kinds))
            test_local = local_features(test, name)
        local = local_features(train.store, name)
    own = ("k", "candidates", "others", "neighbours", "audit_k", "processes")
    of_pairs, of_audit = recorded_settings(settings, config, train, local, test, test_local)
    return Cleaning(
        Path(settings.output),
        train,
        test,
        verifier,
        cast("Sequence[Features] | None", local),
        cast("Sequence[Features] | None", test_local),
        shard_search(instantiate(config.search)),
        **{name: getattr(settings, name) for name in own},
        settings=of_pairs,
        audit_settings=of_audit,
    )


def recorded_settings(
    settings: Clean,
    config: DictConfig,
    train: "TrainPhotos",
    local: "LocalFeatureStore | None",
    test: "DescriptorStore | None",
    test_local: "LocalFeatureStore | None",
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the settings that decide the pairs and their scores, and those of the audit."""
    from landmark.disk.differences import as_recorded

    plain: Any = OmegaConf.to_container(config, resolve=True)
    geometry: dict[str, Any] = {"geometry": settings.geometry}
    if local is not None:
        verify = {key: value for key, value in plain["verify"].items() if key != "false_rate"}
        geometry |= {"verify": verify, "local": local.settings}
    search = {key: value for key, value in plain["search"].items() if key != "device"}
    names = ("k", "candidates", "others", "neighbours")
    of_pairs = {**geometry, "search": search, **{name: plain[name] for name in names}}
    of_pairs["train"] = train.record()
    if test is None:
        return as_recorded(of_pairs), None
    of_audit = {**geometry, "search": search, "audit_k": settings.audit_k}
    of_audit["test"] = {"ids": ids_of(test), "embedder": test.meta.get("embedder")}
    if test_local is not None:
        of_audit["local"] = test_local.settings
    return as_recorded(of_pairs), as_recorded(of_audit)


def ids_of(store: "DescriptorStore") -> str:
    """Return the digest of a store's ids."""
    from landmark.artifact.local_features import ids_digest

    return ids_digest(store.rows["id"])


def rules_of(settings: Clean, config: DictConfig) -> "list[Rule]":
    """Return a rule for each combination of thresholds.

    Raises:
        UserError: Two thresholds exclude each other.
    """
    from landmark.clean.grid import combine

    min_inliers: Any = settings.min_inliers
    if not settings.geometry and min_inliers is not None:
        raise UserError(
            f"min_inliers={min_inliers} needs geometric verification. Leave it out, or pass "
            "geometry=true."
        )
    if min_inliers is not None and settings.false_rate is not None:
        raise UserError(
            "min_inliers= and false_rate= are two thresholds of one pair. Pass one of them."
        )
    if min_inliers is None and settings.geometry and is_2019():
        min_inliers = INLIERS_2019 if settings.false_rate is None else None
    min_agreement: Any = settings.min_agreement
    if min_agreement == "auto":
        min_agreement = AGREEMENT if min_inliers is None else None
    if min_agreement in (None, "none"):
        min_agreement = None
        if not settings.geometry:
            raise UserError(
                "geometry=false leaves min_agreement as the only threshold. Pass "
                f"min_agreement={AGREEMENT}, or geometry=true."
            )
    return combine(
        min_inliers=min_inliers,
        false_rate=settings.false_rate or config.verify.false_rate,
        min_neighbours=settings.min_neighbours,
        min_agreement=min_agreement,
    )


def is_2019() -> bool:
    """Whether verify=inliers_2019 is chosen."""
    return HydraConfig.get().runtime.choices.get("verify") == "inliers_2019"


def photo_table(config: DictConfig) -> "ImageTable | None":
    """Return the train photos of data=, those held out too; None without data=.

    They have no landmarks: those of the store are cleaned.
    """
    from dataclasses import replace

    import pandas as pd

    source = instantiate(config.get("data"))
    if source is None:
        return None
    train = source.read("train")
    rows = pd.concat([train.rows, *(table.rows for table in source.validation())])
    rows = rows.drop_duplicates("id").drop(columns="landmark_id", errors="ignore")
    return replace(train, rows=rows.reset_index(drop=True))


def write_grid(cleaning: "Cleaning", table: "pd.DataFrame") -> None:
    """Write grid.csv into the output; a cleaned table of earlier thresholds stays."""
    from landmark.clean.folder import replacing

    with replacing(cleaning.output, cleaning.staging, ("grid.csv",)) as folder:
        table.to_csv(folder / "grid.csv", index=False)


def write_cleaning(
    settings: Clean,
    cleaning: "Cleaning",
    pairs: "Pairs",
    photos: "Photos",
    audit: "Pairs | None",
    rule: "Rule",
    located: "ImageTable | None",
) -> None:
    """Apply one rule, print what it keeps, and write its files and pages.

    Raises:
        UserError: The rule keeps no photo.
    """
    from landmark.clean.grid import nothing_kept
    from landmark.clean.result import Result
    from landmark.clean.write import writing_files
    from landmark.report.cleaning import write_audit_page, write_cleaning_page
    from landmark.report.photos import StorePhotos

    result = Result.of(pairs, photos, rule, settings.duplicate_cosine, settings.geometry, audit)
    print(result.summary(), flush=True)
    if not result.selection.is_kept.any():
        reason = nothing_kept(pairs, photos, result.selection, settings.geometry)
        raise UserError(
            f"the thresholds keep no photo: {reason}. Pass lower thresholds; {cleaning.output} "
            "keeps the pairs."
        )
    train = StorePhotos(cleaning.train.store, located)
    with writing_files(cleaning, result, located) as folder:
        if settings.report:
            write_cleaning_page(folder / "report.html", cleaning, result, train, settings.report)
            if cleaning.test is not None:
                test = StorePhotos(cleaning.test)
                write_audit_page(
                    folder / "audit.html", cleaning, result, train, test, settings.report
                )
