"""BoQ: a bag of learned queries that attend to the map."""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.settings import checked

_HEAD_DIM = 64


class BoQ(nn.Module):
    """Learned queries that read a map by cross-attention: (B, C, h, w) → (B, dim · rows).

    The map is reduced to `dim` channels. Each block encodes its cells by self-attention, and its
    queries attend to them; a Linear combines the queries of all blocks into `rows` vectors of
    `dim`. The result is of unit length.

    Args:
        dim: Dimension of tokens and queries; one attention head for each 64.
        queries: Learned queries of each block.
        blocks: Number of blocks.
        rows: Vectors into which the queries are combined.

    Source:
        Ali-bey, Chaib-draa, Giguère: BoQ: A Place is Worth a Bag of Learnable Queries. CVPR 2024,
        section 3. The 3×3 convolution also reduces a transformer's map, as in the authors' code.

    Example:
        >>> BoQ(dim=64, queries=8, rows=4)(torch.rand(2, 24, 4, 5)).shape
        torch.Size([2, 256])
    """

    @checked
    def __init__(
        self,
        dim: Annotated[int, Field(gt=0, multiple_of=_HEAD_DIM)] = 512,
        queries: PositiveInt = 64,
        blocks: Annotated[int, Field(gt=0, le=64)] = 2,
        rows: PositiveInt = 32,
    ) -> None:
        super().__init__()
        self.reduce_conv = nn.LazyConv2d(dim, kernel_size=3, padding=1)
        self.reduce_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(_Block(dim, queries) for _ in range(blocks))
        self.row_linear = nn.Linear(blocks * queries, rows)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, dim · rows)."""
        cells = self.reduce_norm(self.reduce_conv(x).flatten(2).transpose(1, 2))  # (B, h w, dim)
        outputs = []
        for block in self.blocks:
            cells, output = block(cells)
            outputs.append(output)
        joined = torch.cat(outputs, dim=1).transpose(1, 2)  # (B, dim, blocks · queries)
        return functional.normalize(self.row_linear(joined).float().flatten(1)).to(x.dtype)


class _Block(nn.Module):
    """Cells (B, n, dim) → encoded cells, and what the queries read from them (B, queries, dim)."""

    def __init__(self, dim: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, dim))
        self.encoder = _Encoder(dim)
        self.query_attention = Attention(dim)
        self.query_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim)
        self.cross_norm = nn.LayerNorm(dim)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.encoder(cells)
        queries = self.query_norm(self.queries + self.query_attention(self.queries, self.queries))
        return cells, self.cross_norm(self.cross_attention(queries, cells))


class _Encoder(nn.Module):
    """A transformer's encoder layer that normalises after each residual: (B, n, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, 4 * dim)
        self.output = nn.Linear(4 * dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x))
        return self.norm2(x + self.output(self.hidden(x).relu()))


class Attention(nn.Module):
    """Multi-head attention: queries (B or 1, m, dim), keys and values (B, n, dim) → (B, m, dim).

    Args:
        dim: Dimension, a multiple of 64; each head has 64.

    Example:
        >>> Attention(64)(torch.rand(1, 3, 64), torch.rand(2, 5, 64)).shape
        torch.Size([2, 3, 64])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """Return, for each query, the values weighted by its softmax over the keys."""
        dim = queries.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = functional.linear(queries, weight[:dim], bias[:dim])
        key, value = functional.linear(values, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        heads = [
            part.unflatten(-1, (-1, _HEAD_DIM)).transpose(1, 2) for part in (query, key, value)
        ]
        heads[0] = heads[0].expand(values.shape[0], -1, -1, -1)
        read = functional.scaled_dot_product_attention(*heads)  # (B, heads, m, 64)
        return self.output(read.transpose(1, 2).flatten(2))
