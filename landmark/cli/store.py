"""Show, join, concatenate, whiten and shrink descriptor stores.

landmark store info STORE
landmark store join OUTPUT STORE STORE …
landmark store ensemble OUTPUT STORE STORE … --weights 0.5 1
landmark store apply FITTED STORE OUTPUT
landmark store apply STORE OUTPUT --dtype int8

An existing OUTPUT is kept unless --overwrite is given.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from landmark.cli._parser import Parser, parser_of, run
from landmark.error import UserError


def main() -> None:
    """Run `landmark store`."""
    run(store)


def store(arguments: Sequence[str]) -> str:
    """Run one of the tools; return the text to print."""
    options = _parser().parse_args(arguments)
    if "paths" in options:
        options.fitted, options.store, options.output = _apply_paths(options.paths, options.dtype)
    tool: Callable[[argparse.Namespace], str] = options.tool
    if "output" in options:
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
        help="whiten a store, or change its dtype",
        usage="landmark store apply [FITTED] STORE OUTPUT [--dtype DTYPE] [--overwrite]",
    )
    apply.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="a folder that landmark fit wrote, optional with --dtype; a store; the store to write",
    )
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


def _apply_paths(paths: Sequence[str], dtype: str | None) -> tuple[str | None, str, str]:
    """Return FITTED, None with --dtype alone, STORE and OUTPUT.

    Raises:
        UserError: Too few or too many are given.
    """
    if len(paths) == 3:
        return paths[0], paths[1], paths[2]
    if len(paths) == 2 and dtype is not None:
        return None, paths[0], paths[1]
    raise UserError(
        f"apply: {len(paths)} paths are given. Pass FITTED STORE OUTPUT, or STORE OUTPUT --dtype "
        "int8."
    )


def _apply(options: argparse.Namespace) -> str:
    from landmark.artifact.convert import convert
    from landmark.artifact.descriptors import VECTORS, DescriptorStore
    from landmark.artifact.whitening import Whitening, apply

    store = DescriptorStore.open(options.store)
    whitening = None if options.fitted is None else Whitening.open(options.fitted)
    dim, sizes = store.dim, ""
    if options.dtype is None:
        assert whitening is not None  # see `_apply_paths`
        apply(whitening, store, options.output, options.overwrite)
        dim = whitening.dim
    else:
        dim = convert(store, options.output, options.dtype, options.overwrite, whitening)
        before, after = (
            (Path(path) / VECTORS).stat().st_size / 1e6 for path in (store.path, options.output)
        )
        sizes = f", {store.dtype} → {options.dtype}, {before:,.1f} → {after:,.1f} MB"
    line = f"wrote {options.output}: {len(store):,} photos, {store.dim} → {dim}-d{sizes}"
    return line + _local_words(options.output, [options.store])
