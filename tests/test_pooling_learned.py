"""SALAD, BoQ, DOLG and regional GeM against the authors' answers and naive loops."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from landmark.error import UserError
from landmark.extract.multiscale import MultiScale
from landmark.model import Features, build_embedder, load_embedder, write_embedder
from landmark.model.inference import for_inference
from landmark.model.persist import describe_embedder
from landmark.model.relup import ReLUP
from landmark.pooling import DOLG, SALAD, BoQ, GeM, RegionalGeM
from landmark.pooling.regional_gem import regional_gem
from landmark.pooling.salad import transport

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**31)
sides = st.integers(3, 5)
CPU = torch.device("cpu")


@pytest.fixture
def reference(shared):
    """Return a reader of the authors' inputs, weights and answers."""

    def read(name):
        arrays = np.load(shared / "reference" / "pooling" / f"{name}.npz")
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    return read


def with_weights(pooling, answers):
    names = {key: key.replace(".", "_").replace("blocks_", "block") for key in pooling.state_dict()}
    state = {key: answers[name] for key, name in names.items() if name in answers}
    missing = pooling.load_state_dict(state, strict=False).missing_keys
    assert all("num_batches" in key for key in missing)
    return pooling.eval()


def close(got, want, tolerance):
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


@torch.no_grad()
def test_salad_gives_the_authors_descriptor(reference):
    answers = reference("salad")
    pooling = with_weights(SALAD(clusters=6, cluster_dim=8, token_dim=10), answers)
    features = Features([answers["map"]], answers["class_token"])
    close(pooling(features), answers["descriptor"], 2e-6)
    # In float64: the values are as large as 10, and the sums of float32 differ by machine.
    cells = answers["map"].flatten(2).transpose(1, 2).double()
    scores = pooling.double().score(cells).transpose(1, 2)
    close(scores, answers["assignment_score"].double(), 2e-6)
    assigned = transport(answers["assignment_score"], answers["dust"])
    close(assigned, answers["assignment"], 2e-6)


@torch.no_grad()
def test_boq_gives_the_authors_descriptor(reference):
    answers = reference("boq")
    pooling = with_weights(BoQ(dim=128, queries=5, rows=4), answers)
    inputs = []
    for block in pooling.blocks:
        block.cross_attention.register_forward_hook(lambda _, given, __: inputs.append(given))
    close(pooling(answers["map"]), answers["descriptor"], 2e-6)
    for number, (queries, cells) in enumerate(inputs):
        layer = pooling.blocks[number].cross_attention.qkv
        query, key = (layer(x).chunk(3, -1)[part] for part, x in enumerate((queries, cells)))
        maps = [
            (query[..., head] @ key[..., head].transpose(1, 2) / 8).softmax(-1)
            for head in (slice(64), slice(64, 128))
        ]
        close(sum(maps) / 2, answers[f"block{number}_attention_map"], 2e-6)


@pytest.mark.parametrize(("multi_atrous", "suffix"), [(True, ""), (False, "_without_aspp")])
@torch.no_grad()
def test_dolg_gives_the_authors_descriptor(reference, multi_atrous, suffix):
    answers = reference("dolg")
    options = {"dim": 12, "branch_dim": 8, "output_dim": 10, "multi_atrous": multi_atrous}
    pooling = with_weights(DOLG(**options), answers)
    joined = []
    pooling.output_linear.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    features = Features([answers["stage3"], answers["stage4"]], None)
    close(pooling(features), answers[f"descriptor{suffix}"], 2e-6)
    close(joined[0][:, :12], answers["global_vector"], 2e-6)
    close(joined[0][:, 12:], answers[f"orthogonal_mean{suffix}"], 2e-6)


@torch.no_grad()
def test_superglobal_gives_the_authors_descriptor(reference):
    answers = reference("superglobal")
    maps = [answers[f"map_{scale}"] for scale in range(3)]

    def projected(x):
        pooled = RegionalGeM(unit_length=True)(x)
        return functional.linear(pooled, answers["projection_weight"], answers["projection_bias"])

    for scale, x in enumerate(maps):
        close(regional_gem(x), answers[f"regional_map_{scale}"], 1e-6)
        close(RegionalGeM()(x), answers[f"pooled_{scale}"], 1e-6)
        close(projected(x), answers[f"projected_{scale}"], 1e-6)
    scales = (0.7071, 1.0, 1.4142)
    close(MultiScale(scales, combine="max")(projected, maps), answers["descriptor"], 1e-6)
    close(MultiScale(scales)(projected, maps), answers["descriptor_scale_mean"], 1e-6)


def test_relup_raises_small_activations(reference):
    answers = reference("superglobal")
    assert torch.equal(ReLUP(0.014)(answers["before_clamp"]), answers["clamped"])


@torch.inference_mode()
@pytest.mark.parametrize(("name", "replaced"), [("resnet18", 8), ("resnet26", 10)])
def test_relup_replaces_the_activations_of_the_first_three_stages(name, replaced):
    torch.manual_seed(0)
    plain = build_embedder(name, GeM(), neck="none").eval()
    raised = build_embedder(name, GeM(), neck="none", relup=0.014).eval()
    raised.load_state_dict(plain.state_dict())
    model = raised.backbone.model
    assert sum(isinstance(module, ReLUP) for module in raised.modules()) == replaced
    assert not any(isinstance(module, ReLUP) for module in model.layer4.modules())
    x = torch.rand(2, 3, 64, 96)
    start = model.maxpool(model.act1(model.bn1(model.conv1(raised.normalise(x)))))
    for stage in (model.layer1, model.layer2, model.layer3):
        start = stage(start)
        assert float(start.min()) == pytest.approx(0.014)
    assert float(model.layer4(start).min()) == 0
    want = raised(x)
    assert not torch.allclose(want, plain(x), rtol=1e-3)
    torch.testing.assert_close(for_inference(raised, CPU)(x), want, rtol=1e-3, atol=1e-4)


def test_relup_of_another_network_is_one_line():
    with pytest.raises(UserError, match=r"model\.relup is for ResNets, not for test_vit"):
        build_embedder("test_vit", GeM(), relup=0.014)


def randomized(pooling, features, seed):
    """Create the weights of a pooling, and replace all by random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pooling.eval()(features)
        for name, tensor in pooling.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and name != "gem.p":
                tensor.normal_(0, 0.3, generator=generator)
    weights = {key: value.double().numpy() for key, value in pooling.state_dict().items()}
    return pooling, weights


def random_map(seed, *shape):
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.rand(shape, generator=generator)


def unit(vector):
    return vector / max(math.sqrt(sum(value * value for value in vector)), 1e-12)


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def perceptron(x, weights, name):
    hidden = weights[f"{name}.hidden.weight"] @ x + weights[f"{name}.hidden.bias"]
    active = np.maximum(hidden, 0)
    return weights[f"{name}.output.weight"] @ active + weights[f"{name}.output.bias"]


def naive_salad(x, token, weights, clusters, iterations):
    """One photo's map (C, h, w), token by token."""
    tokens = [x[:, row, column] for row, column in np.ndindex(*x.shape[1:])]
    n, m = len(tokens), clusters
    scores = [[*perceptron(t, weights, "score"), float(weights["dust"])] for t in tokens]
    c = -math.log(m + n)
    row_mass = [c] * m + [c + math.log(n - m)]
    u, v = [0.0] * (m + 1), [0.0] * n
    for _ in range(iterations):
        for k in range(m + 1):
            u[k] = row_mass[k] - log_sum_exp([scores[i][k] + v[i] for i in range(n)])
        for i in range(n):
            v[i] = c - log_sum_exp([scores[i][k] + u[k] for k in range(m + 1)])
    columns = []
    for k in range(m):
        shares = [math.exp(scores[i][k] + u[k] + v[i] - c) for i in range(n)]
        local = [perceptron(t, weights, "local") for t in tokens]
        columns.append(unit(sum(p * f for p, f in zip(shares, local, strict=True))))
    parts = [] if token is None else [unit(perceptron(token, weights, "token"))]
    flat = [columns[k][channel] for channel in range(len(columns[0])) for k in range(m)]
    return unit(np.concatenate([*parts, flat]))


@few
@given(seeds, sides, sides, st.integers(1, 8), st.booleans(), st.integers(1, 5))
def test_salad_against_a_loop_over_tokens(seed, height, width, clusters, has_token, iterations):
    x = random_map(seed, 2, 5, height, width)
    token = random_map(seed + 1, 2, 5) if has_token else None
    features = Features([x], token)
    options = {"token_dim": 4 if has_token else 0, "hidden": 6, "iterations": iterations}
    pooling, weights = randomized(SALAD(clusters, 3, **options), features, seed)
    for photo in range(2):
        tokens = None if token is None else token[photo].double().numpy()
        want = naive_salad(x[photo].double().numpy(), tokens, weights, clusters, iterations)
        np.testing.assert_allclose(pooling(features)[photo].detach(), want, atol=2e-6)


def test_salad_assigns_all_mass():
    scores = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))
    assigned = transport(scores, torch.tensor(0.5), iterations=50)
    torch.testing.assert_close(assigned.sum(1), torch.ones(3, 11))
    mass = torch.tensor([1.0, 1, 1, 1, 7])
    torch.testing.assert_close(assigned.sum(2), mass.expand(3, 5), rtol=1e-3, atol=1e-3)


def layer_norm(x, weights, name):
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(queries, values, weights, name):
    """Queries and values are lists of vectors; one query and one head at a time."""
    dim = len(queries[0])
    w, b = weights[f"{name}.qkv.weight"], weights[f"{name}.qkv.bias"]
    keys = [w[dim : 2 * dim] @ x + b[dim : 2 * dim] for x in values]
    contents = [w[2 * dim :] @ x + b[2 * dim :] for x in values]
    out = []
    for x in queries:
        query, read = w[:dim] @ x + b[:dim], np.zeros(dim)
        for head in range(0, dim, 64):
            part = slice(head, head + 64)
            logits = [query[part] @ key[part] / 8 for key in keys]
            total = log_sum_exp(logits)
            for logit, content in zip(logits, contents, strict=True):
                read[part] += math.exp(logit - total) * content[part]
        out.append(weights[f"{name}.output.weight"] @ read + weights[f"{name}.output.bias"])
    return out


def convolution(x, weight, bias, dilation=1):
    """(C, h, w) → (C', h, w), zeros around the map; one cell at a time."""
    reach = weight.shape[-1] // 2
    out = np.zeros((len(weight), *x.shape[1:]))
    for row, column in np.ndindex(*x.shape[1:]):
        out[:, row, column] = bias
        for a, b in np.ndindex(*weight.shape[2:]):
            r, c = row + (a - reach) * dilation, column + (b - reach) * dilation
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                out[:, row, column] += weight[:, :, a, b] @ x[:, r, c]
    return out


def naive_boq(x, weights, blocks):
    reduced = convolution(x, weights["reduce_conv.weight"], weights["reduce_conv.bias"])
    places = np.ndindex(*x.shape[1:])
    cells = [layer_norm(reduced[:, r, c], weights, "reduce_norm") for r, c in places]
    outputs = []
    for number in range(blocks):
        name = f"blocks.{number}"
        read = attention(cells, cells, weights, f"{name}.encoder.attention")
        cells = [
            layer_norm(x + y, weights, f"{name}.encoder.norm1")
            for x, y in zip(cells, read, strict=True)
        ]
        fed = [perceptron(x, weights, f"{name}.encoder") for x in cells]
        cells = [
            layer_norm(x + y, weights, f"{name}.encoder.norm2")
            for x, y in zip(cells, fed, strict=True)
        ]
        queries = list(weights[f"{name}.queries"][0])
        read = attention(queries, queries, weights, f"{name}.query_attention")
        queries = [
            layer_norm(x + y, weights, f"{name}.query_norm")
            for x, y in zip(queries, read, strict=True)
        ]
        read = attention(queries, cells, weights, f"{name}.cross_attention")
        outputs += [layer_norm(x, weights, f"{name}.cross_norm") for x in read]
    rows = weights["row_linear.weight"] @ np.array(outputs)
    return unit((rows + weights["row_linear.bias"][:, None]).T.ravel())


@few
@given(seeds, sides, sides, st.sampled_from([64, 128]), st.integers(1, 3))
def test_boq_against_a_loop_over_queries(seed, height, width, dim, blocks):
    x = random_map(seed, 2, 3, height, width)
    pooling, weights = randomized(BoQ(dim, queries=3, blocks=blocks, rows=2), x, seed)
    for photo in range(2):
        want = naive_boq(x[photo].double().numpy(), weights, blocks)
        np.testing.assert_allclose(pooling(x)[photo].detach(), want, atol=5e-6)


def naive_dolg(before, last, weights, multi_atrous):
    powers = np.maximum(last, 1e-6) ** 3
    pooled = [powers[channel].mean() ** (1 / 3) for channel in range(len(last))]
    vector = weights["global_linear.weight"] @ pooled + weights["global_linear.bias"]

    def layer(x, name, dilation=1):
        return convolution(x, weights[f"{name}.weight"], weights[f"{name}.bias"], dilation)

    x = before
    if multi_atrous:
        mean = np.maximum(layer(x.mean((1, 2), keepdims=True), "aspp.pool"), 0)
        branches = [np.broadcast_to(mean, (len(mean), *x.shape[1:])), layer(x, "aspp.point")]
        branches += [layer(x, f"aspp.dilation{rate}", rate) for rate in (6, 12, 18)]
        x = np.maximum(layer(np.concatenate(branches), "aspp.merge"), 0)
    y = layer(x, "local_conv")
    norm = {key: weights[f"local_norm.{key}"][:, None, None] for key in ("weight", "bias")}
    mean, variance = (
        weights[f"local_norm.running_{key}"][:, None, None] for key in ("mean", "var")
    )
    y = (y - mean) / np.sqrt(variance + 1e-5) * norm["weight"] + norm["bias"]
    places = list(np.ndindex(*y.shape[1:]))
    total = np.zeros(len(y))
    for row, column in places:
        local = y[:, row, column]
        logit = weights["attention_conv.weight"][0, :, 0, 0] @ np.maximum(local, 0)
        a = math.log1p(math.exp(logit + weights["attention_conv.bias"][0]))
        local = a * unit(local)
        total += local - (local @ vector) * vector / (vector @ vector)
    joined = np.concatenate([vector, total / len(places)])
    return weights["output_linear.weight"] @ joined + weights["output_linear.bias"]


@few
@given(seeds, st.integers(3, 14), sides, st.booleans())
def test_dolg_against_a_loop_over_places(seed, height, width, multi_atrous):
    maps = [random_map(seed, 2, 3, height, width), random_map(seed + 1, 2, 5, 2, 3)]
    make = DOLG(dim=4, branch_dim=3, output_dim=6, multi_atrous=multi_atrous)
    pooling, weights = randomized(make, Features(maps, None), seed)
    for photo in range(2):
        arrays = [x[photo].double().numpy() for x in maps]
        want = naive_dolg(*arrays, weights, multi_atrous)
        got = pooling(Features(maps, None))[photo].detach()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def naive_regional_gem(x, window, p, region_p, share, eps):
    x = np.maximum(x.astype("float64"), eps)
    reach, (height, width) = window // 2, x.shape[1:]

    def reflected(place, size):
        place = abs(place)
        return place if place < size else 2 * (size - 1) - place

    out = np.zeros(len(x))
    for channel in range(len(x)):
        total = 0.0
        for row, column in np.ndindex(height, width):
            around = [
                x[channel, reflected(row + a, height), reflected(column + b, width)] ** region_p
                for a in range(-reach, reach + 1)
                for b in range(-reach, reach + 1)
            ]
            mean = (sum(around) / len(around)) ** (1 / region_p)
            total += (share * mean + (1 - share) * x[channel, row, column]) ** p
        out[channel] = (total / (height * width)) ** (1 / p)
    return out


@few
@given(
    seeds,
    sides,
    sides,
    st.sampled_from([1, 3, 5]),
    st.floats(1, 5),
    st.floats(1, 5),
    st.floats(0, 1),
)
def test_regional_gem_against_a_loop_over_windows(seed, height, width, window, p, region_p, share):
    x = random_map(seed, 2, 3, height, width) - 0.3  # some activations are below eps
    pooling = RegionalGeM(p, region_p, window, share)
    for photo in range(2):
        want = naive_regional_gem(x[photo].numpy(), window, p, region_p, share, 1e-8)
        np.testing.assert_allclose(pooling(x)[photo], want, rtol=1e-4, atol=1e-6)
    length = RegionalGeM(p, region_p, window, share, unit_length=True)(x).norm(dim=1)
    torch.testing.assert_close(length, torch.ones(2))


def test_regional_gem_trains_a_network_with_zeros():
    x = random_map(0, 1, 2, 4, 4)
    x[:, 1] = 0
    x.requires_grad_()
    RegionalGeM()(x).sum().backward()
    assert bool(x.grad.isfinite().all())
    assert bool((x.grad[:, 0] > 0).all())


SMALL = {
    "salad": ("landmark.pooling.salad.SALAD", "test_vit", {"clusters": 6, "cluster_dim": 4}),
    "salad_of_a_map": (
        "landmark.pooling.salad.SALAD",
        "test_resnet",
        {"clusters": 3, "cluster_dim": 4, "token_dim": 0},
    ),
    "boq": ("landmark.pooling.boq.BoQ", "test_resnet", {"dim": 64, "queries": 6, "rows": 3}),
    "dolg": ("landmark.pooling.dolg.DOLG", "test_resnet", {"dim": 8, "branch_dim": 4}),
    "regional_gem": ("landmark.pooling.regional_gem.RegionalGeM", "test_resnet", {}),
}
CLASSES = {"SALAD": SALAD, "BoQ": BoQ, "DOLG": DOLG, "RegionalGeM": RegionalGeM}
DIMS = {"salad": 280, "salad_of_a_map": 12, "boq": 192, "dolg": 512, "regional_gem": 96}
EACH = pytest.mark.parametrize("name", SMALL)


def small(name, neck="none"):
    target, backbone, options = SMALL[name]
    torch.manual_seed(0)
    pooling = CLASSES[target.rpartition(".")[2]](**options)
    return build_embedder(backbone, pooling, neck=neck, embedding_dim=16)


def images(count=2):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, 160, 128), dtype=torch.uint8, generator=generator)


@EACH
def test_the_dimension_is_that_of_the_pooling_or_of_the_neck(name):
    plain, projected = small(name), small(name, neck="linear_batchnorm")
    assert plain.training
    assert plain.pooling.training
    assert plain.embedding_dim == DIMS[name]
    assert plain(images()).shape == (2, DIMS[name])
    assert projected(images()).shape == (2, 16)


def test_creating_the_weights_leaves_the_statistics_of_a_batchnorm():
    norm = small("dolg").pooling.local_norm
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(norm.running_var, torch.ones(8))


@EACH
def test_every_parameter_learns(name):
    embedder = small(name)
    embedder(images(4)).square()[:, ::2].sum().backward()
    lazy = torch.nn.parameter.UninitializedTensorMixin
    for key, parameter in embedder.pooling.named_parameters():
        assert not isinstance(parameter, lazy)
        assert parameter.grad is not None, key
    for key, parameter in embedder.backbone.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, key


@EACH
@torch.no_grad()
def test_a_written_embedder_computes_the_same(name, tmp_path):
    target, backbone, options = SMALL[name]
    embedder = small(name, neck="linear_batchnorm").eval()
    for tensor in embedder.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor))
    make = "landmark.model.build.build_embedder"
    model = {"_target_": make, "backbone": backbone, "embedding_dim": 16}
    description = describe_embedder(model, {"_target_": target, **options}, {})
    loaded, _ = load_embedder(write_embedder(tmp_path / "embedder", embedder, description))
    assert torch.equal(loaded(images()), embedder(images()))
    fused = for_inference(embedder, CPU)
    want = embedder(images())
    torch.testing.assert_close(fused(images()), want, rtol=1e-3, atol=1e-4 * want.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EACH
@torch.inference_mode()
def test_half_precision_is_close_to_float32(name, dtype):
    embedder = small(name).eval()
    pooling, token = embedder.pooling, torch.randn(3, 64)
    # Cubes of the activations exceed float16.
    maps = [40 * torch.rand(3, channels, 12, 10) for channels in embedder.backbone.channels]
    want = pool_of(pooling, maps, token)
    with torch.autocast("cpu", dtype=dtype):
        half = pool_of(pooling, [x.to(dtype) for x in maps], token.to(dtype))
    assert half.dtype in (dtype, torch.float32)
    cosine = functional.cosine_similarity(half.float(), want)
    assert float(cosine.min()) > 1 - {torch.float16: 1e-5, torch.bfloat16: 1e-3}[dtype]


def pool_of(pooling, maps, token):
    features = Features(maps, token)
    return pooling(features if getattr(pooling, "takes", "") == "features" else maps[0])


def test_a_random_embedder_can_be_copied_and_cast():
    embedder = copy.deepcopy(small("boq")).double()
    assert embedder.pooling.row_linear.weight.dtype == torch.float64


def test_too_few_tokens_are_one_line():
    pooling = SALAD(clusters=20, token_dim=0)
    with pytest.raises(UserError, match=r"clusters=20 needs more than 20 patch tokens.*5x4"):
        pooling(Features([torch.rand(1, 8, 4, 5)], None))
    assert pooling(Features([torch.rand(1, 8, 3, 7)], None)).shape == (1, 20 * 128)


def test_more_clusters_than_the_cells_of_a_small_map():
    embedder = build_embedder("test_vit", SALAD(clusters=99, cluster_dim=4), neck="none")
    with pytest.raises(UserError, match="99 patch tokens, but the map has 80"):
        embedder(images())


def test_salad_without_a_class_token_is_one_line():
    with pytest.raises(UserError, match=r"no class token\. Pass pooling\.token_dim=0"):
        build_embedder("test_resnet", SALAD())


def test_dolg_without_two_stages_is_one_line():
    with pytest.raises(UserError, match=r"two stages, but the backbone returns 1"):
        build_embedder("test_resnet", DOLG(), stages=[-1])
    with pytest.raises(UserError, match=r"model\.stages=\[-99, -1\] is not available"):
        build_embedder("vit_tiny_patch16_224", DOLG(stages=(-99, -1)))


def test_a_map_smaller_than_the_window_is_one_line():
    with pytest.raises(UserError, match=r"pooling\.window=5 needs a map of at least 3 .*2x7"):
        RegionalGeM()(torch.rand(1, 4, 7, 2))


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (SALAD, {"clusters": 0}, "SALAD: clusters=0"),
        (SALAD, {"dropout": 1.0}, "SALAD: dropout=1.0"),
        (BoQ, {"dim": 100}, "BoQ: dim=100 is not valid.*a multiple of 64"),
        (BoQ, {"rows": 0}, "BoQ: rows=0"),
        (DOLG, {"dim": -1}, "DOLG: dim=-1"),
        (RegionalGeM, {"window": 4}, r"pooling\.window=4 has no centre"),
        (RegionalGeM, {"share": 1.5}, r"RegionalGeM: share=1\.5"),
    ],
)
def test_settings_out_of_range_are_named(make, options, words):
    with pytest.raises(UserError, match=words):
        make(**options)


def test_dropout_is_in_training_only():
    features = Features([torch.rand(1, 8, 4, 5)], None)
    pooling = SALAD(clusters=3, token_dim=0)
    assert not torch.equal(pooling(features), pooling(features))
    pooling.eval()
    assert torch.equal(pooling(features), pooling(features))


def test_regional_gem_can_replace_the_gem_of_a_trained_network():
    trained, other = (
        build_embedder("test_resnet", pooling, embedding_dim=8)
        for pooling in (GeM(), RegionalGeM())
    )
    other.load_state_dict(trained.state_dict())
