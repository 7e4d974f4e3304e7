"""Pair models equal the published answers, whatever the padding and the batch."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from landmark.error import UserError
from landmark.pair import AMES, ELViS, chamfer, kernel
from landmark.pair.transport import transport


@pytest.fixture(scope="module")
def reference(shared):
    """Read a file of the published answers."""

    def read(name):
        with np.load(shared / f"reference/pair/{name}.npz") as file:
            return {key: torch.from_numpy(np.array(file[key])) for key in file.files}

    return read


def load(model, answers):
    """Copy the weights of a file; its names have underscores where ours have dots."""
    model.load_state_dict({key: answers[key.replace(".", "_")] for key in model.state_dict()})
    return model


def photos(answers):
    return [answers[k] for k in ("query", "gallery", "query_padding", "gallery_padding")]


def cut(answers, pair):
    """Return the descriptors of one pair without its padding."""
    query, gallery, of_query, of_gallery = photos(answers)
    return query[pair][~of_query[pair]][None], gallery[pair][~of_gallery[pair]][None]


def close(ours, answer, tolerance):
    torch.testing.assert_close(ours, answer, rtol=0, atol=tolerance)


def gradients_equal(model, answers, loss, tolerance):
    loss.backward()
    gradients = {key.replace(".", "_"): value.grad for key, value in model.named_parameters()}
    wanted = {key[9:]: value for key, value in answers.items() if key.startswith("gradient_")}
    assert wanted
    for name, gradient in wanted.items():
        close(gradients[name], gradient, tolerance)


def test_elvis_scores_do_not_depend_on_padding(reference):
    answers = reference("elvis")
    model = load(ELViS(dim=48), answers)
    close(model(*photos(answers)), answers["score_without_padding"], 1e-5)
    for pair in range(2):
        close(model(*cut(answers, pair)), answers["score_without_padding"][[pair]], 1e-5)


def test_elvis_counting_padding_equals_the_published_batch(reference):
    answers = reference("elvis")
    model = load(ELViS(dim=48, count_padding=True), answers)
    query, gallery, of_query, of_gallery = photos(answers)
    projected, dust = model.project(query)
    close(dust, answers["dust_gain_query"], 1e-5)
    other, other_dust = model.project(gallery)
    close(other_dust, answers["dust_gain_gallery"], 1e-5)
    mass = transport(
        projected @ other.mT,
        dust,
        other_dust,
        model.corner,
        of_query,
        of_gallery,
        count_padding=True,
    )
    close(mass, answers["transport"], 1e-5)
    close(model(query, gallery, of_query, of_gallery), answers["score"], 1e-5)
    close(model(gallery, query, of_gallery, of_query), answers["score_swapped"], 1e-5)


def test_elvis_trains_as_published(reference):
    answers = reference("elvis")
    model = load(ELViS(dim=48, count_padding=True), answers)
    logits = model.logits(model(*photos(answers)))
    close(logits, answers["training_logit"], 1e-5)
    loss = functional.binary_cross_entropy_with_logits(logits, answers["label"])
    close(loss, answers["training_loss"], 1e-5)
    gradients_equal(model, answers, loss, 1e-4)


def test_chamfer_equals_the_published_answers(reference):
    answers = reference("chamfer")
    query, gallery, *paddings = photos(answers)
    for row, dust in enumerate(answers["dust"].tolist()):
        mass = transport(query @ gallery.mT, dust, None, None, *paddings, count_padding=True)
        close(mass, answers["transport"][row], 5e-6)
        padded = chamfer(query, gallery, *paddings, dust=dust, count_padding=True)
        close(padded, answers["score"][row], 5e-6)
        true = chamfer(query, gallery, *paddings, dust=dust)
        close(true, answers["score_without_padding"][row], 5e-6)
    first = cut(answers, 0)
    close(transport(first[0] @ first[1].mT, None)[0], answers["transport_no_dust_first_pair"], 5e-6)
    close(chamfer(query, gallery, *paddings, dust=None), answers["score_no_dust"], 5e-6)
    close(chamfer(query, gallery, *paddings, iterations=0), answers["score_no_transport"], 5e-6)


@pytest.mark.parametrize(
    ("name", "tolerances"), [("ames", (2e-5, 2e-5)), ("ames_binary", (1e-5, 5e-5))]
)
def test_ames_equals_the_published_answers(reference, name, tolerances):
    answers = reference(name)
    bits = answers["binary_projection"].shape[1] if name == "ames_binary" else None
    model = load(AMES(dim=48, bits=bits, width=32, layers=3, hidden=64), answers)
    model.eval()
    close(model(*photos(answers)), answers["score"], tolerances[0])
    close(model.tokens(*photos(answers)), answers["tokens"], tolerances[0])
    for pair in range(2):
        close(model(*cut(answers, pair)), answers["score"][[pair]], tolerances[0])
    if bits:
        close(model.binarize(answers["query"]), answers["bits_query"], 0)
        close(model.binarize(answers["gallery"]), answers["bits_gallery"], 0)
    model.train()
    logits = model(*photos(answers))
    close(logits, answers["training_logit"], tolerances[1])
    loss = functional.binary_cross_entropy_with_logits(logits, answers["label"])
    close(loss, answers["training_loss"], tolerances[1])
    if not bits:
        gradients_equal(model, answers, loss, 2e-5)


# --- independence of padding and batch, against loops over one pair in float64 ---

seeds = st.integers(0, 10**6)


def unit_rows(random, count, dim):
    rows = random.standard_normal((count, dim))
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def pairs_of(seed, pairs, dim, least=0):
    """Return lists of the descriptors of pairs, with different numbers of rows."""
    random = np.random.default_rng(seed)
    query, gallery = [], []
    for _ in range(pairs):
        query.append(unit_rows(random, random.integers(least, 7), dim))
        gallery.append(unit_rows(random, random.integers(least, 8), dim))
        shared = min(len(query[-1]), len(gallery[-1])) // 2  # noisy copies
        noisy = query[-1][:shared] + 0.1 * unit_rows(random, shared, dim)
        gallery[-1][:shared] = functional.normalize(noisy, dim=1)
    return query, gallery


def padded(photos, seed, extra):
    """Return a batch (B, n, D) and its padding: at random places, with content of any kind."""
    random = np.random.default_rng(seed)
    length = max(map(len, photos)) + extra
    batch = torch.full((len(photos), length, photos[0].shape[1]), torch.nan)
    padding = torch.ones(len(photos), length, dtype=torch.bool)
    for row, photo in enumerate(photos):
        places = torch.from_numpy(np.sort(random.permutation(length)[: len(photo)]))
        batch[row, places], padding[row, places] = photo, False
    return batch, padding


def batch_of(query, gallery, seed, extra):
    (a, of_a), (b, of_b) = padded(query, seed, extra), padded(gallery, seed + 1, extra)
    return a, b, of_a, of_b


def naive_transport(similarities, right, below, corner, temperature, iterations):
    """Compute the transport of one pair, entry by entry; `right` None means no dust."""
    s = np.asarray(similarities, np.float64)
    m, n = s.shape
    has_dust = right is not None
    z = np.zeros((m + has_dust, n + has_dust))
    z[:m, :n] = s
    if has_dust:
        z[:m, n], z[m, :n], z[m, n] = right, below, corner
    z *= temperature
    if not m or not n:
        return z[:m, :n]
    c = -np.log(m + n)
    log_a, log_b = np.full(len(z), c), np.full(z.shape[1], c)
    if has_dust:
        log_a[m], log_b[n] = c + np.log(n), c + np.log(m)
    u, v = np.zeros(len(z)), np.zeros(z.shape[1])
    for _ in range(iterations):
        u = np.array([log_a[i] - np.logaddexp.reduce(z[i] + v) for i in range(len(u))])
        v = np.array([log_b[j] - np.logaddexp.reduce(z[:, j] + u) for j in range(len(v))])
    return np.exp(z + u[:, None] + v - c)[:m, :n]


def naive_chamfer(query, gallery, dust, temperature, iterations):
    s = query.double().numpy() @ gallery.double().numpy().T
    if not s.size:
        return 0.0
    p = naive_transport(s, dust, dust, dust, temperature, iterations) if iterations else s
    return p.max(axis=1).sum() + p.max(axis=0).sum()


@given(
    seed=seeds,
    pairs=st.integers(1, 4),
    extra=st.integers(0, 3),
    dust=st.sampled_from([None, -0.5, 0.0, 1.0]),
    temperature=st.sampled_from([1.0, 10.0, 30.0, 300.0]),
    iterations=st.sampled_from([0, 1, 3, 10]),
)
@settings(max_examples=60, deadline=None)
def test_chamfer_equals_a_loop_over_pairs(seed, pairs, extra, dust, temperature, iterations):
    query, gallery = pairs_of(seed, pairs, 5)
    settings_ = {"dust": dust, "temperature": temperature, "iterations": iterations}
    ours = chamfer(*batch_of(query, gallery, seed, extra), **settings_)
    wanted = [naive_chamfer(a, b, **settings_) for a, b in zip(query, gallery, strict=True)]
    np.testing.assert_allclose(ours.numpy(), wanted, atol=2e-4 if temperature > 30 else 2e-5)


@given(seed=seeds, dust=st.sampled_from([None, 0.2]), shift=st.sampled_from([0.0, 5.0]))
@settings(max_examples=20, deadline=None)
def test_transport_gradients_equal_differences(seed, dust, shift):
    random = np.random.default_rng(seed)
    s = torch.from_numpy(random.uniform(-1, 1, (2, 3, 4)) + shift).requires_grad_()
    right = torch.from_numpy(random.uniform(-1, 1, (2, 3))).requires_grad_()
    below = torch.from_numpy(random.uniform(-1, 1, (2, 4))).requires_grad_()
    corner = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    padding = torch.tensor([[False, False, False], [False, True, False]])
    other = torch.tensor([[False, False, False, True], [False] * 4])

    def moved(s, right, below, corner):
        if dust is None:
            return transport(s, None, None, None, padding, other, iterations=3)
        return transport(s, right, below, corner, padding, other, iterations=3)

    given_ = (s, right, below, corner)
    assert torch.autograd.gradcheck(moved, given_ if dust else (s, *map(torch.detach, given_[1:])))


def float64(model):
    weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
    return {key.replace(".", "_"): value for key, value in weights.items()}


def linear(w, name, x):
    return x @ w[name + "_weight"].T + w[name + "_bias"]


def layer_norm(w, name, x, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * w[name + "_weight"] + w[name + "_bias"]


def gelu(x):
    return functional.gelu(torch.from_numpy(x)).numpy()


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def naive_elvis(model, query, gallery):
    """Compute the score of one pair as written in the paper."""
    w = float64(model)

    def votes(p):
        hidden = gelu(layer_norm(w, "vote_norm", linear(w, "vote_hidden", p[:, None]), 1e-6))
        return 1 / (1 + np.exp(-linear(w, "vote_output", hidden)))

    a, b = (
        unit(layer_norm(w, "proj_norm", linear(w, "proj_linear", rows.double().numpy())))
        for rows in (query, gallery)
    )
    h_a, h_b = (
        np.tanh(linear(w, "dust_output", gelu(linear(w, "dust_hidden", rows))))[:, 0]
        for rows in (a, b)
    )
    p = naive_transport(a @ b.T, h_a, h_b, w["corner"], 10, 10)
    empty = not p.size
    by_row = np.zeros(len(a)) if empty else p.max(1)
    by_column = np.zeros(len(b)) if empty else p.max(0)
    return votes(by_row).sum() + votes(by_column).sum()


def naive_ames(model, query, gallery):
    """Compute the score of one pair as written in the paper, with masks."""
    w = float64(model)

    def tokens(rows):
        rows = unit(rows.double().numpy())
        if model.bits:
            rows = np.sign(rows @ w["binary_projection"])
        return layer_norm(w, "proj_norm", linear(w, "proj_linear", rows))

    def attention(name, x, allowed, heads=2):
        q, k, v = np.split(linear(w, name + "_qkv", x), 3, axis=1)
        size = x.shape[1] // heads
        joined = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = np.where(allowed, q[:, part] @ k[:, part].T / np.sqrt(size), -np.inf)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            joined.append(shares / shares.sum(1, keepdims=True) @ v[:, part])
        return linear(w, name + "_output", np.concatenate(joined, 1))

    of_gallery = tokens(gallery)
    if not model.bits:
        of_gallery = of_gallery.astype(np.float16).astype(np.float64)
    x = np.concatenate([w["match_token"][None], tokens(query), of_gallery])
    side = np.array([0] + [1] * len(query) + [2] * len(gallery))
    same, match = side[:, None] == side, (side[:, None] == 0) | (side == 0)
    for index in range(len(model.layers)):
        name = f"layer{index}_"
        for part, allowed in (("within", same | match), ("across", ~same | match)):
            x = layer_norm(w, f"{name}norm_after_{part}", x + attention(name + part, x, allowed))
        hidden = np.maximum(linear(w, name + "feed_hidden", x), 0)
        x = layer_norm(w, name + "norm_after_feed", x + linear(w, name + "feed_output", hidden))
    return float(linear(w, "score", x[0])[0])


def shaken(model, seed):
    """Change all weights, so that every part matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


MODELS = {
    "elvis": (lambda: ELViS(dim=6, width=16), naive_elvis, 5e-5),
    "ames": (lambda: AMES(dim=6, width=16, layers=2, hidden=24), naive_ames, 5e-3),
    "ames_binary": (lambda: AMES(dim=6, bits=8, width=16, layers=2, hidden=24), naive_ames, 2e-4),
}


@pytest.mark.parametrize("name", MODELS)
@given(seed=seeds, pairs=st.integers(1, 4), extra=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_scores_equal_a_loop_over_pairs(name, seed, pairs, extra):
    build, naive, tolerance = MODELS[name]
    model = shaken(build(), seed)
    query, gallery = pairs_of(seed, pairs, 6)
    with torch.no_grad():
        ours = model(*batch_of(query, gallery, seed, extra))
    wanted = [naive(model, a, b) for a, b in zip(query, gallery, strict=True)]
    np.testing.assert_allclose(ours.numpy(), wanted, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_gradients_do_not_depend_on_padding(name, seed):
    model = shaken(MODELS[name][0](), seed).train()
    query, gallery = pairs_of(seed, 3, 6, least=1)

    def gradients(batches):
        model.zero_grad()
        sum(model(*batch).sum() for batch in batches).backward()
        return [w.grad.clone() for w in model.parameters() if w.grad is not None]

    together = gradients([batch_of(query, gallery, seed, 2)])
    alone = gradients([(a[None], b[None]) for a, b in zip(query, gallery, strict=True)])
    largest = max(float(gradient.abs().max()) for gradient in alone)
    for one, other in zip(together, alone, strict=True):
        close(one, other, 1e-4 * max(1.0, largest))


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_what_is_symmetric_in_query_and_gallery(seed):
    query, gallery = pairs_of(seed, 3, 6, least=1)
    a, b, of_a, of_b = batch_of(query, gallery, seed, 1)
    ames = shaken(AMES(dim=6, width=16, layers=2, hidden=24), seed).train()  # no rounding
    with torch.no_grad():
        close(ames(a, b, of_a, of_b), ames(b, a, of_b, of_a), 2e-4)
    converged = (
        chamfer(*batch, iterations=600) for batch in ((a, b, of_a, of_b), (b, a, of_b, of_a))
    )
    close(*converged, 1e-4)


def test_elvis_starts_as_published():
    torch.manual_seed(0)
    weights = ELViS(dim=48).state_dict()
    assert sum(w.numel() for w in weights.values()) == 48 * 128 + 128 + 2 * 128 + (
        128 * 128 + 128 + 129 + 32 + 32 + 17 + 128 + 65 + 1
    )
    assert weights["corner"] == 1
    for key, weight in weights.items():
        if key.endswith("bias"):
            assert (weight == 0).all()
        elif weight.ndim == 1:
            assert (weight == 1).all()
        elif weight.ndim == 2:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert weight.abs().max() <= bound
            assert weight.numel() < 100 or weight.abs().max() > 0.95 * bound


@pytest.mark.parametrize("name", MODELS)
def test_descriptors_of_another_dimension_are_refused(name):
    model = MODELS[name][0]()
    with pytest.raises(
        UserError, match="descriptors have 5 dimensions, and the pair model takes 6"
    ):
        model(torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))
    with pytest.raises(ValueError, match="padding"):
        model(torch.zeros(1, 2, 6), torch.zeros(1, 2, 6), torch.zeros(1, 3, dtype=torch.bool))


def test_sizes_of_ames_are_checked():
    with pytest.raises(UserError, match="width=9 is not a multiple of heads=2"):
        AMES(dim=4, width=9)
    with pytest.raises(UserError, match="AMES: bits=12 is not valid"):
        AMES(dim=4, bits=12)


def test_binary_training_approaches_the_sign():
    model = AMES(dim=6, bits=8, width=16, layers=1, hidden=8)
    rows = unit_rows(np.random.default_rng(0), 50, 6)
    smooth = model.train().binarize(rows)
    values = rows @ model.binary_projection
    close(smooth, torch.erf(values / (2e-6**0.5)), 1e-5)
    signs = model.eval().binarize(rows)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (smooth - signs)[values.abs() > 0.01].abs().max() < 1e-5


def test_the_buffer_of_the_kernel_serves_all_modes(monkeypatch):
    monkeypatch.setattr(kernel, "_own", threading.local())
    rows = [kernel.with_dust(torch.eye(3), 0.0, 0.0, is_query) for is_query in (True, False)]
    with torch.inference_mode():
        expected = kernel.best_masses(*rows, has_dust=True)[0].clone()
    with torch.no_grad():
        torch.testing.assert_close(kernel.best_masses(*rows, has_dust=True)[0], expected)
    torch.testing.assert_close(kernel.best_masses(*rows, has_dust=True)[0], expected)
