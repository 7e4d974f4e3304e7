"""Show, join, concatenate, project and shrink descriptor stores.

landmark store info STORE
landmark store join OUTPUT STORE STORE …
landmark store ensemble OUTPUT STORE STORE … --weights 0.5 1
landmark store apply FITTED STORE OUTPUT
landmark store apply FITTED --into RUN/embedder
landmark store apply STORE OUTPUT --dtype int8

apply projects with a whitening or an adapter. --into adds an adapter to an embedder,
which then needs no whitening=. An existing OUTPUT is kept unless --overwrite is given.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from landmark.cli._parser import Parser, parser_of, run
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.artifact.projection import Projection


def main() -> None:
    """Run `landmark store`."""
    run(store)


def store(arguments: Sequence[str]) -> str:
    """Run one of the tools; return the text to print."""
    options = _parser().parse_args(arguments)
    if "paths" in options:
        options.fitted, options.store, options.output = _apply_paths(options)
    tool: Callable[[argparse.Namespace], str] = options.tool
    if getattr(options, "output", None) is not None:
        from landmark.artifact.descriptors import META
        from landmark.disk.atomic import check_can_write
        from landmark.disk.lock import locked

        # Before minutes of work, with this command's spelling of the option in the message.
        check_can_write(options.output, options.overwrite, marker=META, option="--overwrite")
        with locked(options.output):
            return tool(options)
    return tool(options)


def _parser() -> Parser:
    parser = parser_of("store", __doc__)
    tools = parser.add_subparsers(required=True, metavar="info|join|ensemble|apply")

    info = tools.add_parser("info", help="show what a store contains and how it was made")
    info.add_argument("store", metavar="STORE")
    info.set_defaults(tool=_info)

    join = tools.add_parser("join", help="join stores of different photos into one")
    ensemble = tools.add_parser("ensemble", help="concatenate descriptors of the same photos")
    for tool in (join, ensemble):
        tool.add_argument("output", metavar="OUTPUT", help="store to write")
        tool.add_argument("stores", metavar="STORE", nargs="+")
    join.set_defaults(tool=_join)
    ensemble.add_argument("--weights", metavar="W", type=float, nargs="+", help="one per store")
    ensemble.set_defaults(tool=_ensemble)

    apply = tools.add_parser(
        "apply",
        help="project a store, change its dtype, or adapt an embedder",
        usage="landmark store apply [FITTED] [STORE OUTPUT] [--into RUN/embedder] [--dtype DTYPE] "
        "[--overwrite]",
    )
    apply.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="a folder that landmark fit wrote, optional with --dtype; a store; the store to write",
    )
    apply.add_argument("--into", metavar="RUN/embedder", help="embedder that gets the adapter")
    apply.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8", "bit"),
        help="of the written vectors: int8 and bit store codes of 8 bits or 1 bit per dimension",
    )
    apply.set_defaults(tool=_apply)

    for tool in (join, ensemble, apply):
        tool.add_argument("--overwrite", action="store_true", help="replace an existing OUTPUT")
    return parser


def _info(options: argparse.Namespace) -> str:
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.local_features import local_names

    store = DescriptorStore.open(options.store)

    def lines() -> Iterator[tuple[str, str]]:
        yield "photos", f"{len(store):,}"
        yield "dimension", f"{store.dim:,}"
        if store.landmark_ids is not None:
            labelled = store.landmark_ids[store.landmark_ids != ""]
            yield "landmarks", f"{len(set(labelled)):,} of {len(labelled):,} photos"
        if len(store.skipped):
            yield "skipped", f"{len(store.skipped):,} photos that could not be read"
        for key, value in store.meta.items():
            yield key, value if isinstance(value, str) else json.dumps(value)
        for name in local_names(store.path):
            features = store.local(name)
            size = sum(file.stat().st_size for file in features.path.iterdir())
            mean = features.features / max(len(store), 1)
            yield (
                "local",
                f"{name}: {features.features:,} features, {mean:,.1f} a photo, "
                f"{size / 1e6:,.1f} MB, {json.dumps(features.settings)}",
            )

    return "\n".join(f"{key:<11} {value}" for key, value in lines())


def _join(options: argparse.Namespace) -> str:
    from landmark.artifact.join import join

    count = join(options.output, options.stores, options.overwrite)
    line = f"wrote {options.output}: {count:,} photos of {len(options.stores)} stores"
    return line + _local_words(options.output, options.stores)


def _local_words(output: str, stores: Sequence[str]) -> str:
    """Say which local features the written store has, and which of the stores' it lacks."""
    from landmark.artifact.local_features import local_names

    kept = local_names(Path(output))
    left_out = {name for store in stores for name in local_names(Path(store))} - set(kept)
    words = f", with local features {', '.join(kept)}" if kept else ""
    if left_out:
        words += (
            f"; left out: local features {', '.join(sorted(left_out))}, which some stores lack or "
            "have with other settings"
        )
    return words


def _ensemble(options: argparse.Namespace) -> str:
    from landmark.artifact.ensemble import ensemble

    dim = ensemble(options.output, options.stores, options.weights, options.overwrite)
    line = f"wrote {options.output}: {dim:,}-d of {len(options.stores)} stores"
    return line + _local_words(options.output, options.stores)


def _apply_paths(options: argparse.Namespace) -> tuple[str | None, str | None, str | None]:
    """Return FITTED, None with --dtype alone, STORE and OUTPUT, both None with --into alone.

    Raises:
        UserError: Too few or too many are given.
    """
    paths = options.paths
    if len(paths) == 3:
        return paths[0], paths[1], paths[2]
    if len(paths) == 2 and options.dtype is not None and options.into is None:
        return None, paths[0], paths[1]
    if len(paths) == 1 and options.into is not None and options.dtype is None:
        return paths[0], None, None
    raise UserError(
        f"apply takes other paths than {' '.join(paths)}. Pass FITTED STORE OUTPUT, "
        "STORE OUTPUT --dtype int8, or FITTED --into RUN/embedder."
    )


def _apply(options: argparse.Namespace) -> str:
    from landmark.artifact.adapter import open_projection
    from landmark.artifact.convert import convert
    from landmark.artifact.descriptors import VECTORS, DescriptorStore

    projection, lines = None, []
    if options.fitted is not None:
        projection = open_projection(options.fitted)
    if options.output is not None:
        store = DescriptorStore.open(options.store)
        convert(store, options.output, projection, options.dtype, options.overwrite)
        dim = store.dim if projection is None else projection.dim
        line = f"wrote {options.output}: {len(store):,} photos, {store.dim} → {dim}-d"
        if options.dtype is not None:
            before, after = (
                (Path(path) / VECTORS).stat().st_size / 1e6 for path in (store.path, options.output)
            )
            line += f", {store.dtype} → {options.dtype}, {before:,.1f} → {after:,.1f} MB"
        lines.append(line + _local_words(options.output, [options.store]))
    if projection is not None and options.into is not None:
        lines.append(_into_embedder(options.fitted, projection, options.into))
    return "\n".join(lines)


def _into_embedder(fitted: str, projection: "Projection", folder: str) -> str:
    """Make an adapter the last layer of the embedder in `folder`, in place."""
    from landmark.artifact.adapter import Adapter
    from landmark.disk.lock import locked
    from landmark.model.adapter import add_adapter
    from landmark.model.persist import embedder_digest

    if not isinstance(projection, Adapter):
        raise UserError(
            f"{fitted} is {projection.noun}, which subtracts a mean from unit-length descriptors; "
            "the embeddings that an embedder averages are not. Pass extract.py "
            f"whitening={fitted}, or an adapter (fit=linear)."
        )
    if Path(folder).is_file():
        raise UserError(f"{folder} is a file. Pass an embedder folder, RUN/embedder.")
    embedder_digest(folder)  # it is an embedder folder, beside which the lock is created
    with locked(folder):
        recorded = {"embedder": embedder_digest(folder), "whitening": None}
        projection.check_fits(recorded, projection.source_dim, folder)
        add_adapter(folder, projection.weight, projection.digest)
    return f"wrote {folder}: {projection.source_dim} → {projection.dim}-d"
