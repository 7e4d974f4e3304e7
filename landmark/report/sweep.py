"""One table of all jobs of a sweep and a plot of them: sweep.csv, sweep.md, sweep.png.

python -m landmark.report.sweep DIR
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.sweep_jobs import Job, read_jobs
from landmark.report.sweep_plot import draw_sweep

SEED = "seed"


def differing(jobs: Sequence[Job]) -> list[str]:
    """Keys whose value is not the same in all jobs, in the order of the command line."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def job_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """A row a job: its number, the settings that differ, metrics, seconds, state.

    Where seeds differ, `mean` and `deviation` of the first metric follow: over the finished jobs
    that are alike but for the seed; the deviation is that of a sample, with n - 1.
    """
    keys, metrics = differing(jobs), metric_names(jobs)
    table = pd.DataFrame(
        [
            {"job": job.name}
            | {key: job.overrides.get(key, "") for key in keys}
            | {metric: job.metrics.get(metric) for metric in metrics}
            | {"seconds": job.seconds, "state": _state(job)}
            for job in jobs
        ]
    )
    if SEED in keys and metrics:
        means = mean_table(jobs).rename(columns={metrics[0]: "mean"})
        kept = [*(key for key in keys if key != SEED), "mean", "deviation"]
        means = means.rename(columns={f"{metrics[0]} deviation": "deviation"})[kept]
        on = kept[:-2]
        table = table.merge(means, on=on, how="left") if on else table.merge(means, how="cross")
    return table


def mean_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """A row for each setting of all but the seed, the best first.

    The columns: the settings, `seeds` (how many jobs are done), each metric's mean and, as
    `<metric> deviation`, its sample deviation, NaN for one seed.
    """
    keys = [key for key in differing(jobs) if key != SEED]
    metrics = metric_names(jobs)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.done:
            groups.setdefault(tuple(job.overrides.get(key, "") for key in keys), []).append(job)
    rows = []
    for setting, members in groups.items():
        values = pd.DataFrame([job.metrics for job in members], columns=metrics, dtype=float)
        row: dict[str, object] = dict(zip(keys, setting, strict=True)) | {"seeds": len(members)}
        for metric in metrics:
            row |= {metric: values[metric].mean(), f"{metric} deviation": values[metric].std()}
        rows.append(row)
    columns = [*keys, "seeds"]
    columns += [name for metric in metrics for name in (metric, f"{metric} deviation")]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(metrics[0], ascending=False, kind="stable") if metrics else table


def metric_names(jobs: Sequence[Job]) -> list[str]:
    """Names of the metrics that any job has, mean average precision first."""
    names = dict.fromkeys(name for job in jobs for name in job.metrics)
    return sorted(names, key=lambda name: not name.startswith("map_at_"))


def write_report(folder: str | Path) -> str:
    """Writes `sweep.csv`, `sweep.md` and, where a job is done, `sweep.png` into the sweep's folder.

    Returns:
        What sweep.md says, and what was written.

    Raises:
        UserError: the folder holds no jobs.
    """
    folder = Path(folder)
    jobs = read_jobs(folder)
    table = job_table(jobs)
    text = as_markdown(_shown(table, metric_names(jobs)))
    if SEED in differing(jobs) and metric_names(jobs):
        text += "\n" + as_markdown(_with_deviations(mean_table(jobs), metric_names(jobs)))
    undone = sum(not job.done for job in jobs)
    if undone:
        text += f"\n{undone} of {len(jobs)} jobs unfinished: the same command goes on with them\n"
    with atomic_file(folder / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_file(folder / "sweep.md") as temporary:
        temporary.write_text(text)
    written = ["sweep.csv", "sweep.md"]
    if metric_names(jobs):
        draw_sweep(_points(jobs), metric_names(jobs)[0], folder / "sweep.png")
        written.append("sweep.png")
    else:
        (folder / "sweep.png").unlink(missing_ok=True)
    return f"{text}wrote {', '.join(str(folder / name) for name in written)}"


def _points(jobs: Sequence[Job]) -> dict[str, list[float]]:
    """Setting as text → the first metric of its finished jobs."""
    metric = metric_names(jobs)[0]
    keys = [key for key in differing(jobs) if key != SEED]
    points: dict[str, list[float]] = {}
    for job in jobs:
        if metric in job.metrics:
            name = ", ".join(f"{key}={job.overrides.get(key, '')}" for key in keys)
            points.setdefault(name or "all jobs", []).append(job.metrics[metric])
    return points


def _state(job: Job) -> str:
    if not job.done:
        return "unfinished"
    return "done, resumed" if job.resumed else "done"


def _shown(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The numbers as a reader wants them, without the means, which have a table of their own."""
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
    """A table of texts in markdown, its columns aligned."""
    rows = [[str(name) for name in table.columns]]
    rows += [[str(value).replace("|", r"\|") for value in row] for row in table.to_numpy()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Reports on the sweep whose folder is given; returns the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("error: DIR: give the folder of a sweep", file=sys.stderr)
        return 2
    try:
        print(write_report(arguments[0]))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
