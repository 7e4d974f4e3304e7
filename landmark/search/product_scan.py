"""Exact search with torch: screen the gallery with fast products, score what passes in float64."""

import time
from typing import TYPE_CHECKING

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.search.pair_products import pair_products, tensor_of
from landmark.search.rounding import Rounded, product_errors, rounded, rounded_down
from landmark.search.running_top import RunningTop
from landmark.search.transfer import Upload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GROUP = 32  # columns whose maximum is compared with the threshold
# Rows and queries multiplied together, on a CPU by the bytes of a value; others start kernels.
_CPU_TILE = {2: (8192, 1024), 4: (8192, 2048)}
_DEVICE_TILE = (65536, 8192)
_FIRST_GROUPS = 8  # per result, at least, in the first threshold
# Rows per result that the first threshold is computed of, by the bytes of a value: their products
# are computed twice, but each row of a tighter threshold saves candidates of later rows.
_FIRST_ROWS = {2: 512, 4: 128}
# Where a larger share of the groups passes, all products are compared instead of the groups' own.
_MANY_GROUPS = 0.2
_MOST_PAIRS = 0.02  # to score more of them would cost more than products in a wider type
_MOST_RESULTS, _LEAST_PAIRS = 4, 2**16  # per result and in a tile, always accepted
_FAILURES = 8  # of the first type, until the search starts with the next wider one
_PAIRS = 2**20  # per step, where most pass
_CACHED_QUERIES = 2**25  # float64 values: 256 MB


class ProductScan:
    """The k best gallery rows of queries, while a gallery is scanned block by block.

    Products in a fast type, with a bound of their error, screen each tile of the gallery: a row is
    a candidate unless its product is below the k-th best score so far by more than the bound.
    Candidates are scored in float64. Of the products only the maxima of groups of 32 rows are
    compared, and a closer look is taken at the groups that pass. Where too many pass, the tile is
    screened again in the next wider type, at last in float64.

    Args:
        query: (Q, D) float32, C order.
        k: Results per query.
        device: Device of the products.
        dtype: Type of the first screen: bfloat16, float16 or float32.
        block_queries: Queries multiplied together; None is best for the device.

    Example:
        >>> import torch
        >>> gallery = np.eye(3, dtype=np.float32)
        >>> scan = ProductScan(gallery[:1], 2, torch.device("cpu"), torch.bfloat16, 1024)
        >>> scan.scan(gallery, first=0)
        >>> rows, scores = scan.result()
        >>> rows.tolist()
        [[0, 1]]
    """

    def __init__(
        self,
        query: np.ndarray,
        k: int,
        device: "torch.device",
        dtype: "torch.dtype",
        block_queries: int | None,
    ) -> None:
        import torch

        self._k, self._device = k, device
        self._home = home_of(device)
        types = [torch.float32, torch.float64]
        self._types = types if dtype == torch.float32 else [dtype, *types]
        self._failures = 0
        self._upload = Upload(device)
        self._query = tensor_of(query).to(device)
        self._tile_rows, queries = (
            _CPU_TILE[dtype.itemsize] if device.type == "cpu" else _DEVICE_TILE
        )
        self._parts = list(row_blocks(len(query), block_queries or queries))
        self._tops = [RunningTop(part.stop - part.start, k, self._home) for part in self._parts]
        self._rounded_queries: dict[tuple[int, torch.dtype], Rounded] = {}
        self._wide: dict[int, Tensor] = {}
        self._buffers: dict[object, Tensor] = {}
        self._estimated_rows = 0  # that the first threshold is computed of
        self._block: Rounded | None = None  # of its values only type and width matter
        # Of a block of queries: version of the threshold, least products, whether all are positive.
        self._leasts: dict[int, tuple[int, Tensor, bool]] = {}

    def scan(self, block: np.ndarray, first: int) -> None:
        """Search the gallery rows `first`, first + 1, …: block (n, D) float32, n >= 1."""
        tiles = self._tiles(block, first)
        self._block = self._whole(tiles)
        self._leasts.clear()
        self._estimate(tiles)
        while tiles:
            tile = tiles.pop(0)  # its memory is freed after it
            for number in range(len(self._parts)):
                self._search(number, tile)

    def seconds(self, block: np.ndarray) -> float:
        """Return the estimated seconds of screening a block; warms up the products."""
        tile = self._tiles(block, 0)[0]
        best = []
        for _ in range(2):
            tile = _Tile(0, tile.vectors, self._home, self._buffers)
            times = [time.perf_counter()]
            gallery = tile.in_type(self._types[0])
            times.append(time.perf_counter())
            products = self._products(self._of_queries(0, self._types[0]), gallery)
            products.unflatten(1, (_GROUP, -1)).amax(1).sum().item()
            times.append(time.perf_counter())
            preparing, multiplying = np.diff(times)
            best.append(preparing + multiplying * len(self._query) / len(self._tops[0].threshold))
        return min(best) * len(block) / len(tile.vectors)

    def result(self) -> tuple["Tensor", "Tensor"]:
        """Return rows (Q, k) int64, -1 pads, and scores (Q, k) float64 by descending score."""
        import torch

        rows, scores = zip(*(top.result() for top in self._tops), strict=True)
        return torch.cat(rows), torch.cat(scores)

    def _tiles(self, block: np.ndarray, first: int) -> list["_Tile"]:
        vectors = self._upload(block)
        return [
            _Tile(first + part.start, vectors[part], self._home, self._buffers)
            for part in row_blocks(len(block), self._tile_rows)
        ]

    def _whole(self, tiles: list["_Tile"]) -> Rounded | None:
        """Return norms and errors of a block; None in float64, which has one tile at a time."""
        import torch

        if self._types[0] == torch.float64:
            return None
        parts = [tile.in_type(self._types[0]) for tile in tiles]
        return Rounded(
            parts[0].values,
            torch.cat([part.norms for part in parts]),
            torch.cat([part.errors for part in parts]),
        )

    def _estimate(self, tiles: list["_Tile"]) -> None:
        """Compute first thresholds: the k-th largest maximum of disjoint groups of rows.

        A later block is used if it has at least twice as many rows as a small first one.
        """
        import torch

        dtype = self._types[0]
        if dtype == torch.float64:
            return
        wanted = _FIRST_GROUPS * self._k
        most = max(wanted, _FIRST_ROWS[dtype.itemsize] * self._k)
        used, rows = [], 0
        for tile in tiles:
            count = min(len(tile.vectors), most - rows + _GROUP - 1) // _GROUP * _GROUP
            if count:
                used.append(tile.in_type(dtype)[:count])
                rows += count
        size = min(_GROUP, 1 << max(0, (rows // wanted).bit_length() - 1))
        if rows // size < self._k or rows < 2 * self._estimated_rows:
            return
        self._estimated_rows = rows
        for number in range(len(self._parts)):
            query = self._of_queries(number, dtype)
            maxima, errors = [], []
            for gallery in used:
                products = self._products(query, gallery).unflatten(1, (size, -1))
                maxima.append(products.amax(1))
                errors.append(product_errors(query, gallery))
            largest = torch.cat(maxima, dim=1).float()
            kth = largest.topk(self._k).values[:, -1].to(self._home).double()
            # A product may have been rounded up.
            kth -= kth.abs() * torch.finfo(dtype).eps + torch.finfo(dtype).tiny
            threshold = kth - torch.stack(errors).amax(0)
            # A product may be infinite in 16 bits, and is then no bound.
            is_known = threshold.isfinite()
            self._tops[number].raise_threshold(threshold.where(is_known, -torch.inf))

    def _search(self, number: int, tile: "_Tile") -> None:
        """Add the rows of a tile that may be among the k best of a block of queries."""
        import torch

        if not self._tops[number].threshold.isfinite().any():  # all rows
            queries, rows = len(self._tops[number].threshold), len(tile.vectors)
            every = torch.arange(rows, device=self._home)
            for part in row_blocks(queries, _PAIRS // rows):
                query = torch.arange(part.start, part.stop, device=self._home)
                self._add(number, tile, query.repeat_interleave(rows), every.repeat(len(query)))
            return
        if self._screen(number, tile, self._types[0]):
            return
        self._failures += 1
        if not any(self._screen(number, tile, dtype) for dtype in self._types[1:]):
            raise AssertionError("the screen in float64 accepts any number of candidates")
        if self._failures == _FAILURES and len(self._types) > 1:
            self._types, self._failures = self._types[1:], 0

    def _screen(self, number: int, tile: "_Tile", dtype: "torch.dtype") -> bool:
        """Screen a tile in `dtype` and add the candidates; False if they are too many."""
        import torch

        query, gallery = self._of_queries(number, dtype), tile.in_type(dtype)
        least, is_positive = self._least(number, tile, dtype)
        products = self._products(query, gallery)
        if dtype.itemsize == 2 and is_positive:
            # Above zero, numbers of 16 bits are ordered as integers, which are faster.
            products, least = products.view(torch.int16), least.view(torch.int16)
        queries, rows = products.shape
        if dtype == torch.float64:
            for part in row_blocks(queries, _PAIRS // rows):
                at, row = _positions(_passes(products[part], least[part, None]))
                self._add(number, tile, at + part.start, row)
            return True
        most = max(
            _MOST_RESULTS * self._k * queries, _LEAST_PAIRS, int(_MOST_PAIRS * products.numel())
        )
        groups = products.unflatten(1, (_GROUP, -1))
        passes = _passes(groups.amax(1), least[:, None])
        if int(passes.count_nonzero()) > _MANY_GROUPS * passes.numel():
            passes = _passes(products, least[:, None])
            if int(passes.count_nonzero()) > most:
                return False
            self._add(number, tile, *_positions(passes))
            return True
        at, group = _positions(passes)
        which, within = _positions(_passes(groups[at, :, group], least[at, None]))
        if len(which) > most:
            return False
        self._add(number, tile, at[which], within * groups.shape[2] + group[which])
        return True

    def _least(self, number: int, tile: "_Tile", dtype: "torch.dtype") -> tuple["Tensor", bool]:
        """Return the least product of a candidate for each of a block of queries.

        Also whether all are positive. Those of the first type hold for all tiles of a block.
        """
        top, query = self._tops[number], self._of_queries(number, dtype)
        if self._block is None or dtype != self._block.values.dtype:
            return self._compute_least(top.threshold, query, tile.in_type(dtype))
        if number not in self._leasts or self._leasts[number][0] != top.version:
            least = self._compute_least(top.threshold, query, self._block)
            self._leasts[number] = top.version, *least
        return self._leasts[number][1:]

    @staticmethod
    def _compute_least(
        threshold: "Tensor", query: Rounded, gallery: Rounded
    ) -> tuple["Tensor", bool]:
        least = rounded_down(threshold - product_errors(query, gallery), query.values.dtype)
        return least.to(query.values.device), bool((least > 0).all())

    def _add(self, number: int, tile: "_Tile", query: "Tensor", row: "Tensor") -> None:
        """Score pairs of a query (of a block, ascending) and a row of a tile in float64."""
        rows = len(tile.vectors)
        if rows % _GROUP:
            good = row < rows  # without the padding
            query, row = query[good], row[good]
        if len(query):
            query, row = query.to(self._home), row.to(self._home)
            scores = pair_products(self._wide_queries(number), tile.wide(), query, row)
            self._tops[number].add(query, row + tile.first, scores)

    def _of_queries(self, number: int, dtype: "torch.dtype") -> Rounded:
        """Return a block of queries in `dtype`."""
        import torch

        if dtype == torch.float64:
            return rounded(self._wide_queries(number), dtype, self._home)
        key = (number, dtype)
        if key not in self._rounded_queries:
            vectors = self._query[self._parts[number]]
            self._rounded_queries[key] = rounded(vectors, dtype, self._home)
        return self._rounded_queries[key]

    def _wide_queries(self, number: int) -> "Tensor":
        """Return a block of queries in float64, kept if all of them are small."""
        if number in self._wide:
            return self._wide[number]
        vectors = self._query[self._parts[number]]
        if self._query.numel() > _CACHED_QUERIES:
            return _wide_copy(self._buffers, "queries", vectors, self._home)
        self._wide[number] = vectors.to(self._home).double()
        return self._wide[number]

    def _products(self, query: Rounded, gallery: Rounded) -> "Tensor":
        """Return products (Q, n) in a buffer that the next ones overwrite."""
        import torch

        shape = len(query.values), len(gallery.values)
        out = _buffer_of(self._buffers, "products", shape, query.values)
        return torch.mm(query.values, gallery.values.T, out=out)


class _Tile:
    """Consecutive gallery rows on the device, with what has been computed of them so far."""

    def __init__(
        self,
        first: int,
        vectors: "Tensor",
        home: "torch.device",
        buffers: dict[object, "Tensor"],
    ) -> None:
        self.first, self.vectors = first, vectors
        self._home, self._buffers = home, buffers
        self._rounded: dict[torch.dtype, Rounded] = {}
        self._wide: Tensor | None = None

    def in_type(self, dtype: "torch.dtype") -> Rounded:
        """Return the rows in `dtype`, padded with zeros to a multiple of `_GROUP` rows."""
        import torch

        if dtype not in self._rounded:
            vectors = self.wide() if dtype == torch.float64 else self.vectors
            one = rounded(vectors, dtype, self._home)
            if pad := -len(vectors) % _GROUP:
                padded = torch.nn.functional.pad(one.values, (0, 0, 0, pad))
                one = Rounded(padded, one.norms, one.errors)
            self._rounded[dtype] = one
        return self._rounded[dtype]

    def wide(self) -> "Tensor":
        """Return the rows in float64, in a buffer that the next tile overwrites."""
        if self._wide is None:
            self._wide = _wide_copy(self._buffers, "rows", self.vectors, self._home)
        return self._wide


def _passes(products: "Tensor", least: "Tensor") -> "Tensor":
    """Whether each product is not below the least one; a NaN passes."""
    return products >= least if not products.is_floating_point() else ~(products < least)


def _positions(mask: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Return lines and columns of the true entries of a mask (m, n), line by line."""
    import torch

    if mask.device.type != "cpu":
        line, column = mask.nonzero().unbind(1)
        return line, column
    # Several times faster than torch's for few entries.
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    width = mask.shape[1]
    if width & (width - 1):
        line = flat // width
        return line, flat - line * width
    return flat >> (width.bit_length() - 1), flat & (width - 1)


def home_of(device: "torch.device") -> "torch.device":
    """Return the device of float64 scores: Apple's GPUs have no float64.

    Example:
        >>> import torch
        >>> home_of(torch.device("mps"))
        device(type='cpu')
    """
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def _wide_copy(
    buffers: dict[object, "Tensor"], name: object, vectors: "Tensor", home: "torch.device"
) -> "Tensor":
    """Copy vectors to float64 on the home device, in the buffer of a name."""
    import torch

    like = torch.empty(0, dtype=torch.float64, device=home)
    return _buffer_of(buffers, name, tuple(vectors.shape), like).copy_(vectors)


def _buffer_of(
    buffers: dict[object, "Tensor"], name: object, shape: tuple[int, ...], like: "Tensor"
) -> "Tensor":
    """Return an uninitialised tensor in a buffer that grows and is used again.

    Fresh memory of this size would be mapped page by page each time.
    """
    key = (name, like.dtype)
    count = int(np.prod(shape))
    if key not in buffers or buffers[key].numel() < count:
        buffers[key] = like.new_empty(count)
    return buffers[key][:count].view(shape)
