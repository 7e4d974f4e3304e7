"""Score pairs of photos by local descriptors: ours, and the same models in plain PyTorch.

Claim: with 400 × 400 descriptors of 128 dimensions and the published sizes, `Chamfer` and `ELViS`
score at least 3 times as many pairs a second as plain PyTorch, pair by pair, and `AMES` in bfloat16
too; ELViS takes at most a quarter of the time of AMES; the memory does not depend on the number of
queries and photos.

The plain modules are the published formulas: log-space Sinkhorn, and nn.MultiheadAttention with
masks. Both sides are measured in turns. CPU time is disturbed less by other processes.
The scores are compared first.

python benchmarks/pair_models.py [--threads 2] [--only memory]
"""

import argparse
import time
from types import SimpleNamespace

import numpy as np
import torch
from _process import measure_in_new_process
from torch import nn
from torch.nn import functional

from landmark.device import has_bf16_products
from landmark.pair import AMES, ELViS
from landmark.pair.scorer import AMESScorer, ChamferScorer, ELViSScorer
from landmark.rerank import Chamfer
from landmark.rerank.memory import PeakMemory
from landmark.rerank.pair_model import Photos
from landmark.rerank.parallel import in_parallel
from landmark.rerank.retrieval import Retrieval

DIM, COUNT = 128, 400


def plain_transport(similarities, right, below, corner):
    """Return the transport of one pair (M, N), in logarithms."""
    m, n = similarities.shape
    z = torch.cat([similarities, right[:, None]], 1)
    z = 10 * torch.cat([z, torch.cat([below, corner[None]])[None]], 0)
    c = -torch.log(torch.tensor(float(m + n)))
    log_a = torch.cat([c.expand(m), (c + np.log(n))[None]])
    log_b = torch.cat([c.expand(n), (c + np.log(m))[None]])
    u, v = torch.zeros(m + 1), torch.zeros(n + 1)
    for _ in range(10):
        u = log_a - torch.logsumexp(z + v, 1)
        v = log_b - torch.logsumexp(z + u[:, None], 0)
    return torch.exp(z + u[:, None] + v - c)[:-1, :-1]


def plain_chamfer(query, gallery):
    """Score one pair."""
    p = plain_transport(
        query @ gallery.T, torch.zeros(len(query)), torch.zeros(len(gallery)), torch.tensor(0.0)
    )
    return p.max(1).values.sum() + p.max(0).values.sum()


class PlainELViS(nn.Module):
    """ELViS, pair by pair."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, query, gallery):
        """Score one pair."""
        model = self.model
        sides = []
        for rows in (query, gallery):
            projected = functional.normalize(model.proj_norm(model.proj_linear(rows)), dim=1)
            hidden = functional.gelu(model.dust_hidden(projected))
            sides.append((projected, torch.tanh(model.dust_output(hidden))[:, 0]))
        (a, of_a), (b, of_b) = sides
        p = plain_transport(a @ b.T, of_a, of_b, model.corner)
        return model.votes(p.max(1).values).sum() + model.votes(p.max(0).values).sum()


class PlainAMES(nn.Module):
    """AMES, pair by pair, with nn.MultiheadAttention and masks."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.attention = nn.ModuleDict()
        for name in model.layers:
            for part in ("within", "across"):
                ours = getattr(getattr(model, name), part)
                one = nn.MultiheadAttention(model.width, ours.heads, batch_first=True)
                one.in_proj_weight, one.in_proj_bias = ours.qkv.weight, ours.qkv.bias
                one.out_proj.weight, one.out_proj.bias = ours.output.weight, ours.output.bias
                self.attention[f"{name}_{part}"] = one

    def forward(self, query, gallery):
        """Score one pair."""
        model = self.model
        x = torch.cat(
            [model.match_token[None], model.project(query), model.project(gallery, True)]
        )[None]
        side = torch.tensor([0] + [1] * len(query) + [2] * len(gallery))
        with_match = (side[:, None] == 0) | (side == 0)
        same = side[:, None] == side
        masks = {"within": ~(same | with_match), "across": ~(~same | with_match)}
        for name in model.layers:
            layer = getattr(model, name)
            for part, mask in masks.items():
                attended = self.attention[f"{name}_{part}"](x, x, x, attn_mask=mask)[0]
                x = getattr(layer, f"norm_after_{part}")(x + attended)
            x = layer.norm_after_feed(x + layer.feed_output(layer.feed_hidden(x).relu()))
        return model.score(x[0, 0])[0]


def photos(count, seed=0):
    """Return unit rows (count, 400, 128)."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, COUNT, DIM, generator=generator), dim=2)


def rates(name, scorer, plain, pairs, rounds, threads):
    """Print pairs per second, and per second of CPU time, of both: the fastest rounds."""
    query, gallery = photos(1)[0].numpy(), photos(pairs, 1).numpy()
    few = max(2, pairs // 8)

    def ours():
        sides = [[SimpleNamespace(descriptors=one) for one in rows] for rows in ([query], gallery)]
        scored = Photos(scorer, torch.from_numpy, sides, COUNT, torch.device("cpu"))
        blocks = np.array_split(np.arange(pairs), max(2, pairs // 16))
        scores = np.concatenate(list(in_parallel(lambda rows: scored.scores(0, rows), blocks)))
        torch.set_num_threads(threads)  # the workers set 1
        return torch.from_numpy(scores)

    def plainly():
        with torch.inference_mode():
            return torch.stack(
                [plain(*map(torch.from_numpy, (query, one))) for one in gallery[:few]]
            )

    first, wanted = ours()[:few], plainly()
    seconds = {ours: [], plainly: []}
    for _ in range(rounds):
        for work, measured in seconds.items():
            started = time.perf_counter(), time.process_time()
            work()
            measured.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    own, other = (
        count / np.min(measured, axis=0)
        for count, measured in zip((pairs, few), seconds.values(), strict=True)
    )
    print(
        f"{name:<10} {own[0]:7.1f} pairs/s   plain {other[0]:6.1f}   {own[0] / other[0]:5.1f} x   "
        f"per CPU second {own[1]:7.1f}   plain {other[1]:6.1f}   {own[1] / other[1]:5.1f} x   "
        f"scores {wanted.mean():.3f} ± {wanted.std():.3f}, difference up to "
        f"{float((first - wanted).abs().max()):.1e}",
        flush=True,
    )
    return own[1]


class Drawn:
    """Local features that are drawn when they are read."""

    def __getitem__(self, row):
        rows = np.random.default_rng(row).standard_normal((COUNT, DIM), np.float32)
        return SimpleNamespace(descriptors=rows)


def memory(queries, gallery):
    """Print the peak memory of a re-ranking of the top 100."""
    random = np.random.default_rng(0)

    rows = random.integers(0, gallery, (queries, 100)).astype(np.int32)
    scores = -np.sort(random.random((queries, 100), np.float32), axis=1)
    global_ = [np.ones((count, 1), np.float32) for count in (queries, gallery)]
    local = {"patches": Drawn()}
    retrieval = Retrieval(*global_, rows, scores, query_local=local, gallery_local=local)
    reranker = Chamfer(device="cpu")
    with PeakMemory() as peak:
        reranker(retrieval)
    print(f"{queries:>6} queries, {gallery:>9,} photos: peak +{peak.bytes / 2**20:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pairs", type=int, default=64, help="pairs of a round; AMES: a quarter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["rates", "memory"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.only != "memory":
        elvis, ames = ELViS(DIM).eval(), AMES(DIM).eval()
        for module in ames.modules():  # larger scores than those of the initial weights
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        size = options.pairs, options.rounds, options.threads
        rates("chamfer", ChamferScorer(), plain_chamfer, *size)
        of_elvis = rates("elvis", ELViSScorer(elvis), PlainELViS(elvis), *size)
        size = options.pairs // 4, options.rounds, options.threads
        of_ames = rates("ames", AMESScorer(ames), PlainAMES(ames).eval(), *size)
        if has_bf16_products():
            rates("ames bf16", AMESScorer(ames, bf16=True), PlainAMES(ames).eval(), *size)
        print(f"time of elvis / time of ames: {of_ames / of_elvis:.3f}")
    if options.only != "rates":
        for sizes in ((20, 2_000), (80, 2_000_000)):
            measure_in_new_process(tuple, memory, sizes)


if __name__ == "__main__":
    main()
