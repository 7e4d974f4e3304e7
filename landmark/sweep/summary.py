"""Write the summary of a sweep: sweep.csv, sweep.md and sweep.png."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pandas as pd

from landmark.disk.atomic import atomic_file
from landmark.disk.lock import locked
from landmark.sweep.jobs import Job, read_jobs
from landmark.sweep.plot import draw_sweep

SEED = "seed"


def write_summary(folder: str | Path) -> str:
    """Write `sweep.csv`, `sweep.md` and, once a job is done, `sweep.png` into the sweep's folder.

    Returns:
        The content of sweep.md, and the names of the files written.

    Raises:
        UserError: The folder contains no jobs, or cannot be written.
    """
    folder = Path(folder)
    jobs = read_jobs(folder)
    table, metrics = job_table(jobs), metric_names(jobs)
    text = as_markdown(_rounded(table, metrics))
    if SEED in varied_keys(jobs) and metrics:
        text += "\n" + as_markdown(_with_deviations(mean_table(jobs), metrics))
    unfinished = sum(not job.done for job in jobs)
    if unfinished:
        text += f"\n{unfinished} of {len(jobs)} jobs unfinished: run the same command to resume.\n"
    written = ["sweep.csv", "sweep.md"]
    with locked(folder / "sweep.csv"):
        with atomic_file(folder / "sweep.csv") as temporary:
            table.to_csv(temporary, index=False)
        with atomic_file(folder / "sweep.md") as temporary:
            temporary.write_text(text)
        if metrics:
            draw_sweep(_points(jobs, metrics[0]), metrics[0], folder / "sweep.png")
            written.append("sweep.png")
        else:
            (folder / "sweep.png").unlink(missing_ok=True)
    return f"{text}wrote {', '.join(str(folder / name) for name in written)}"


def varied_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values differ between jobs, in the order of the command line."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def metric_names(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the metrics of all jobs, mean average precision first."""
    names = dict.fromkeys(name for job in jobs for name in job.metrics)
    return sorted(names, key=lambda name: not name.startswith("map_at_"))


def job_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """Make a row per job: name, settings that vary, metrics, seconds, state.

    If seeds vary, `mean` and `deviation` of the first metric follow, over the finished jobs that
    differ only in the seed; `deviation` is the sample standard deviation.
    """
    keys, metrics = varied_keys(jobs), metric_names(jobs)
    table = pd.DataFrame(
        [
            {"job": job.name}
            | {key: job.overrides.get(key, "") for key in keys}
            | {metric: job.metrics.get(metric) for metric in metrics}
            | {"seconds": job.seconds, "state": job.state}
            for job in jobs
        ]
    )
    if SEED in keys and metrics:
        names = {metrics[0]: "mean", f"{metrics[0]} deviation": "deviation"}
        settings = [key for key in keys if key != SEED]
        means = mean_table(jobs).rename(columns=names)[[*settings, "mean", "deviation"]]
        how = {"on": settings, "how": "left"} if settings else {"how": "cross"}
        table = table.merge(means, **how)
    return table


def mean_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """Make a row per setting of all keys except the seed, the best first.

    Columns: the settings, `seeds` (number of finished jobs), the mean of each metric and, as
    `<metric> deviation`, its sample standard deviation, NaN for a single seed.
    """
    keys = [key for key in varied_keys(jobs) if key != SEED]
    metrics = metric_names(jobs)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.done:
            groups.setdefault(tuple(job.overrides.get(key, "") for key in keys), []).append(job)
    rows = []
    for setting, members in groups.items():
        values = pd.DataFrame([job.metrics for job in members], columns=metrics, dtype=float)
        statistics = zip(values.mean(), values.std(), strict=True)
        rows.append([*setting, len(members), *chain.from_iterable(statistics)])
    columns = [*keys, "seeds"]
    columns += [name for metric in metrics for name in (metric, f"{metric} deviation")]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(metrics[0], ascending=False, kind="stable") if metrics else table


def _points(jobs: Sequence[Job], metric: str) -> dict[str, list[float]]:
    """Return setting, as text → metric of each of its finished jobs."""
    keys = [key for key in varied_keys(jobs) if key != SEED]
    points: dict[str, list[float]] = {}
    for job in jobs:
        if metric in job.metrics:
            name = ", ".join(f"{key}={job.overrides.get(key, '')}" for key in keys)
            points.setdefault(name or "all jobs", []).append(job.metrics[metric])
    return points


def _rounded(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the job table as text, without the means, which are in a separate table."""
    shown = table.drop(columns=["mean", "deviation"], errors="ignore").astype(object)
    for metric in metrics:
        shown[metric] = [_number(value, 4) for value in table[metric]]
    shown["seconds"] = [_number(value, 0) for value in table["seconds"]]
    return shown


def _with_deviations(means: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    shown = means.astype(object)
    for metric in metrics:
        pairs = zip(means[metric], means[f"{metric} deviation"], strict=True)
        shown[metric] = [
            _number(mean, 4) + ("" if pd.isna(deviation) else f" ± {deviation:.4f}")
            for mean, deviation in pairs
        ]
    return shown.drop(columns=[f"{metric} deviation" for metric in metrics])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def as_markdown(table: pd.DataFrame) -> str:
    """Format a table as Markdown with aligned columns."""
    rows = [[str(name) for name in table.columns]]
    rows += [[str(value).replace("|", r"\|") for value in row] for row in table.to_numpy()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
