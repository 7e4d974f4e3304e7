"""Re-ranking by pair models: order and scores, caches, fitted folders, stores and the command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from exact_descriptors import exact_retrieval
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark import pair
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.pair_model import PairModel
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.pair import kernel, scorer
from landmark.rerank import AMES, Chamfer, ELViS, pair_model
from landmark.rerank.pair_model import strongest
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.stores import Stores
from landmark.search import Flat

DIM = 8
SMALL = {
    "elvis": ({"dim": DIM, "width": 16}, pair.ELViS),
    "ames": ({"dim": DIM, "width": 16, "layers": 2, "hidden": 24}, pair.AMES),
    "ames_binary": ({"dim": DIM, "bits": 16, "width": 16, "layers": 2, "hidden": 24}, pair.AMES),
}
RERANKERS = {"elvis": ELViS, "ames": AMES, "ames_binary": AMES}


def described(random, photos, dtype="float16", most=9):
    """Return local features of photos, some without any."""
    counts = random.integers(0, most, photos)
    return [
        SimpleNamespace(
            descriptors=(random.standard_normal((count, DIM)) * 30 + 60).clip(0, 255).astype(dtype),
            scores=random.permutation(count).astype(np.float32),
        )
        for count in counts
    ]


def with_local(retrieval: Retrieval, seed, **options) -> Retrieval:
    random = np.random.default_rng(seed)
    query, gallery = len(retrieval.query), len(retrieval.gallery)
    return replace(
        retrieval,
        query_local={"patches": described(random, query, **options)},
        gallery_local={"patches": described(random, gallery, **options)},
    )


def fitted(folder, name, seed=0, **meta):
    """Write a fit with random weights; return its folder and its model."""
    keywords, build = SMALL[name]
    torch.manual_seed(seed)
    model = build(**keywords)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    chosen = {"model": keywords, "local": "patches", "weight": 0.25, "gamma": 0.5}
    PairModel(name.removesuffix("_binary"), weights, {**chosen, **meta}).write(folder)
    return str(folder), model.eval()


def naive_rows(photo, most):
    """Return the unit descriptors (1, n, d) of the highest scores."""
    order = sorted(range(len(photo.scores)), key=lambda row: -photo.scores[row])[:most]
    rows = torch.tensor(np.array(photo.descriptors, np.float32)[sorted(order)]).view(-1, DIM)
    return torch.nn.functional.normalize(rows, dim=1)[None]


def check_ranking(before, after, score, top, weight, gamma, most=400, tolerance=2e-5):
    """Compare with a loop over pairs."""
    query_local, gallery_local = before.query_local["patches"], before.gallery_local["patches"]
    for query in range(len(before.query)):
        wanted = {}
        for row in before.rows[query, :top]:
            if row >= 0:
                cosine = before.query[query].astype("f8") @ before.gallery[row].astype("f8")
                with torch.no_grad():
                    s = score(
                        naive_rows(query_local[query], most), naive_rows(gallery_local[row], most)
                    )
                evidence = 1 / (1 + np.exp(-gamma * float(s)))
                wanted[row] = weight * cosine + (1 - weight) * evidence
        found = len(wanted)
        assert set(after.rows[query, :found]) == set(wanted)
        ours = [wanted[row] for row in after.rows[query, :found]]
        np.testing.assert_allclose(after.scores[query, :found], ours, atol=tolerance)
        rest = slice(min(top, before.rows.shape[1]), None)
        np.testing.assert_array_equal(after.rows[query, rest], before.rows[query, rest])
    is_pad = before.rows < 0
    assert ((after.rows < 0) == is_pad).all()
    assert np.isneginf(after.scores[is_pad]).all()
    assert np.isfinite(after.scores[~is_pad]).all()
    assert (after.scores[:, 1:] <= after.scores[:, :-1]).all()


seeds = st.integers(0, 10**6)


@given(
    seed=seeds,
    gallery=st.integers(1, 25),
    k=st.integers(1, 30),
    top=st.integers(1, 30),
    weight=st.sampled_from([0.0, 0.3, 0.9]),
    dust=st.sampled_from([None, 0.0, 0.5]),
    most=st.sampled_from([3, 400]),
    dtype=st.sampled_from(["uint8", "float16"]),
)
@settings(max_examples=40, deadline=None)
def test_chamfer_equals_a_loop_over_pairs(seed, gallery, k, top, weight, dust, most, dtype):
    before = with_local(exact_retrieval(seed, 3, gallery, k), seed, dtype=dtype)
    reranker = Chamfer(
        top=top, weight=weight, gamma=0.3, dust=dust, max_descriptors=most, device="cpu"
    )

    def score(a, b):
        return pair.chamfer(a, b, dust=dust)

    check_ranking(before, reranker(before), score, top, weight, 0.3, most)


@pytest.mark.parametrize("name", RERANKERS)
def test_fitted_models_equal_a_loop_over_pairs(tmp_path, name):
    folder, model = fitted(tmp_path / "fit", name)
    for seed in range(4):
        before = with_local(exact_retrieval(seed, 3, 20, 12), seed)
        after = RERANKERS[name](weights=folder, top=9, device="cpu")(before)
        # The rounding of gallery rows to float16 may differ by a unit in the last place.
        check_ranking(
            before, after, model, 9, 0.25, 0.5, tolerance=5e-4 if "ames" in name else 2e-5
        )
        own = RERANKERS[name](weights=folder, weight=0.6, gamma=0.1, top=9, device="cpu")(before)
        check_ranking(before, own, model, 9, 0.6, 0.1, tolerance=1e-4)


@pytest.mark.parametrize("name", RERANKERS)
def test_scores_do_not_depend_on_the_other_queries_and_results(tmp_path, name):
    folder, _ = fitted(tmp_path / "fit", name)
    before = with_local(exact_retrieval(5, 4, 20, 12), 5)
    reranker = RERANKERS[name](weights=folder, top=12, device="cpu")
    together = reranker(before)
    for query in range(4):
        one = slice(query, query + 1)
        alone = reranker(
            replace(
                before,
                query=before.query[one],
                rows=before.rows[one],
                scores=before.scores[one],
                query_local={"patches": before.query_local["patches"][one]},
            )
        )
        np.testing.assert_array_equal(alone.rows[0], together.rows[query])
        np.testing.assert_array_equal(alone.scores[0], together.scores[query])


@given(
    seed=seeds,
    sizes=st.tuples(st.integers(0, 6), st.integers(0, 7)),
    dust=st.sampled_from([None, -0.5, 0.0, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_kernel_of_a_pair_equals_chamfer(seed, sizes, dust):
    random = np.random.default_rng(seed)
    query, gallery = (
        torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((n, 5))).float())
        for n in sizes
    )
    scored = scorer.ChamferScorer(dust)
    ours = scored.scores(scored.describe(query, False), [scored.describe(gallery, True)])
    torch.testing.assert_close(
        ours, pair.chamfer(query[None], gallery[None], dust=dust), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["chamfer", *SMALL])
def test_padded_batches_of_a_gpu_equal_single_pairs(monkeypatch, tmp_path, name):
    """Run the code of a GPU on the CPU."""
    random = np.random.default_rng(0)
    photos = [
        torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((n, DIM))).float())
        for n in (5, 3, 0, 6)
    ]
    if name == "chamfer":
        scored = scorer.ChamferScorer()
    else:
        kind = scorer.ELViSScorer if name == "elvis" else scorer.AMESScorer
        scored = kind(fitted(tmp_path / "fit", name)[1])
    with torch.no_grad():
        query, *gallery = (scored.describe(photo, i > 0) for i, photo in enumerate(photos))
        single = scored.scores(query, gallery)
        monkeypatch.setattr(scorer, "is_cpu", lambda _: False)
        query, *gallery = (scored.describe(photo, i > 0) for i, photo in enumerate(photos))
        batched = scored.scores(query, gallery)
    torch.testing.assert_close(batched, single, atol=5e-4 if name == "ames" else 2e-5, rtol=0)


def test_a_corner_beyond_the_kernel_is_scored_in_logarithms(tmp_path):
    _, model = fitted(tmp_path / "fit", "elvis")
    rows = torch.nn.functional.normalize(torch.randn(6, DIM))
    with torch.no_grad():
        model.corner.fill_(12.0)
        scored = scorer.ELViSScorer(model)
        ours = scored.scores(scored.describe(rows, False), [scored.describe(rows[:4], True)])
        wanted = model(rows[None], rows[None, :4])
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="corner=12"):
        kernel.with_dust(rows, 0.0, 12.0, True)


def test_packed_bits_are_scored_as_the_descriptors_they_are_of(tmp_path):
    folder, model = fitted(tmp_path / "fit", "ames_binary")
    before = with_local(exact_retrieval(3, 3, 20, 12), 3)
    reranker = AMES(weights=folder, device="cpu")

    def packed(photo):
        rows = naive_rows(photo, 400)[0]
        with torch.no_grad():
            bits = model.binarize(rows).numpy() > 0
        return SimpleNamespace(descriptors=np.packbits(bits, axis=1), scores=photo.scores)

    of_bits = replace(
        before,
        query_local={"patches": list(map(packed, before.query_local["patches"]))},
        gallery_local={"patches": list(map(packed, before.gallery_local["patches"]))},
    )
    plain, from_bits = reranker(before), reranker(of_bits)
    np.testing.assert_array_equal(plain.rows, from_bits.rows)
    np.testing.assert_allclose(plain.scores, from_bits.scores, atol=1e-6)


def test_bfloat16_changes_scores_little(tmp_path):
    folder, _ = fitted(tmp_path / "fit", "ames")
    before = with_local(exact_retrieval(4, 4, 20, 20), 4)
    exact = AMES(weights=folder, weight=0, device="cpu")(before)
    ours = AMES(weights=folder, weight=0, precision="bf16", device="cpu")(before)
    for query in range(4):
        by_row = dict(zip(exact.rows[query], exact.scores[query], strict=True))
        wanted = [by_row[row] for row in ours.rows[query]]
        np.testing.assert_allclose(ours.scores[query], wanted, atol=0.02)
    assert not np.array_equal(exact.scores, ours.scores)


def test_each_photo_is_described_once_and_the_cache_is_bounded(monkeypatch):
    before = with_local(exact_retrieval(6, 5, 30, 20), 6)
    calls = []

    class Counting(scorer.ChamferScorer):
        def describe(self, rows, is_gallery):
            calls.append(is_gallery)
            return super().describe(rows, is_gallery)

    monkeypatch.setattr("landmark.rerank.chamfer.ChamferScorer", Counting)
    monkeypatch.setattr("landmark.rerank.parallel.usable_cpus", lambda: 1)
    first = Chamfer(device="cpu")(before)
    assert calls.count(False) == 5
    assert calls.count(True) == len(np.unique(before.rows))
    calls.clear()
    monkeypatch.setattr(pair_model, "_KEPT_VALUES", 0)
    monkeypatch.setattr(pair_model, "_PAIRS_GPU", 2)  # photos in the cache
    again = Chamfer(device="cpu")(before)
    assert calls.count(True) > len(np.unique(before.rows))
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize("name", ["chamfer", "elvis", "ames", "ames_binary"])
def test_photos_that_are_described_together_are_those_described_alone(tmp_path, monkeypatch, name):
    """The way of a GPU, on the CPU."""
    monkeypatch.setattr(scorer, "is_cpu", lambda _: False)
    monkeypatch.setattr(pair_model, "_KEPT_VALUES", 0)
    monkeypatch.setattr(pair_model, "_PAIRS_GPU", 3)  # photos in the cache
    reranker = Chamfer() if name == "chamfer" else RERANKERS[name](fitted(tmp_path / "f", name)[0])
    sides = [described(np.random.default_rng(seed), 12) for seed in (0, 1)]
    cpu = torch.device("cpu")
    photos = pair_model.Photos(reranker.scorer(cpu), reranker.prepare, sides, 6, cpu)
    with torch.inference_mode():
        for rows in ([3, 1, 3], [1, 4, 5, 6, 7], [4, 1], [11]):
            together = photos._described_together(rows)
            for row, ours in zip(rows, together, strict=True):
                for part, wanted in zip(ours, photos._describe(row, True), strict=True):
                    torch.testing.assert_close(part, wanted, atol=1e-6, rtol=0)
            assert len(photos._kept) <= 3


def test_the_number_of_threads_is_restored():
    torch.set_num_threads(2)
    Chamfer(device="cpu")(with_local(exact_retrieval(1, 2, 9, 9), 1))
    assert torch.get_num_threads() == 2


def test_weight_one_leaves_the_ranking(capsys):
    before = exact_retrieval(0, 2, 9, 9)  # without local features
    reranker = Chamfer(weight=1.0)
    assert reranker(before) is before
    assert not reranker.needs_local
    assert "rerank.chamfer.weight=1: the ranking stays as it is." in capsys.readouterr().err


def test_the_strongest_descriptors_keep_their_order():
    photo = SimpleNamespace(descriptors=np.arange(5)[:, None], scores=np.array([1, 3, 3, 0, 3]))
    assert strongest(photo, 2).ravel().tolist() == [1, 2]
    assert strongest(photo, 9).ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["elvis", "ames"])
def test_wrong_weights_are_refused_in_one_line(tmp_path, name):
    reranker = RERANKERS[name]
    other = {"elvis": "ames", "ames": "elvis"}[name]
    with pytest.raises(UserError, match=f"landmark fit fit={name} train=STORE output=FITTED"):
        reranker()
    with pytest.raises(UserError, match=f"is not a fit of {name}: weights.safetensors is missing"):
        reranker(weights=str(tmp_path))
    folder, _ = fitted(tmp_path / "other", other)
    with pytest.raises(UserError, match=f"not a fit of {name}, but a fit of method '{other}'"):
        reranker(weights=folder)
    folder, _ = fitted(tmp_path / "fit", name)
    with pytest.raises(UserError, match=r"local=xfeat, but .* 'patches'"):
        reranker(weights=folder, local="xfeat")
    with pytest.raises(UserError, match=r"weight=1.5 is not valid"):
        reranker(weights=folder, weight=1.5)
    before = exact_retrieval(0, 2, 9, 9)
    with pytest.raises(UserError, match=f"no local features 'patches', which rerank.{name}"):
        reranker(weights=folder)(before)
    file = tmp_path / "fit" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is damaged .* Fit it again"):
        reranker(weights=folder)


def test_damaged_fits_are_refused(tmp_path):
    folder, _ = fitted(tmp_path / "fit", "elvis")
    file = tmp_path / "fit" / "fit.yaml"
    meta = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**meta, "model": {"dim": 9, "width": 16}}))
    before = with_local(exact_retrieval(0, 2, 9, 9), 0)
    with pytest.raises(UserError, match=r"fit is damaged .*proj_linear.*Fit it again"):
        ELViS(weights=folder, device="cpu")(before)
    file.write_text(yaml.safe_dump({key: meta[key] for key in meta if key != "gamma"}))
    with pytest.raises(UserError, match="gamma is missing"):
        ELViS(weights=folder)
    file.write_text(yaml.safe_dump({**meta, "schema": 99}))
    with pytest.raises(UserError, match="later version"):
        ELViS(weights=folder)


# --- stores and the command ---


def write_store(path, landmarks, seed, dim=DIM, name="patches"):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((len(landmarks), 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"{path.name}{row}" for row in range(len(landmarks))]
    DescriptorStore.write(path, ids, vectors, landmarks, embedder="e")
    places = {one: np.random.default_rng(int(one)).standard_normal((6, dim)) for one in "0123"}
    store = DescriptorStore.open(path)
    with LocalFeatureWriter.writing(
        store, name, dim=dim, dtype="float16", columns=2, kind="drawn"
    ) as writer:
        for landmark in landmarks:
            near = places[landmark] + 0.2 * random.standard_normal((6, dim))
            near /= np.linalg.norm(near, axis=1, keepdims=True)
            writer.append(
                LocalFeatures(
                    keypoints=np.zeros((6, 2), np.float32),
                    descriptors=near.astype(np.float16),
                    scores=np.ones(6, np.float32),
                    size=(9, 9),
                )
            )
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Write stores whose vectors are noise and whose local features show the landmarks."""
    folder = tmp_path_factory.mktemp("stores")
    write_store(folder / "query", list("0123"), 1)
    write_store(folder / "gallery", list("0123" * 5), 2)
    write_store(folder / "more", list("3210"), 3)
    write_store(folder / "wide", list("0123"), 4, dim=DIM + 1)
    write_store(folder / "wide_gallery", list("0123"), 5, dim=DIM + 1)
    return folder


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    return {name: fitted(folder / name, name, weight=0.0)[0] for name in SMALL}


def arguments(stores, output, *, query="query", gallery="gallery"):
    return f"query={stores}/{query}", f"gallery={stores}/{gallery}", f"output={output}"


def test_the_commands_chamfer_finds_the_landmarks_that_search_does_not(rerank, stores, tmp_path):
    output = tmp_path / "out"
    chosen = "rerank=chamfer", "rerank.chamfer.weight=0", "rerank.chamfer.gamma=0.2"
    status, _, errors = rerank(*arguments(stores, output), *chosen)
    assert (status, errors) == (0, "")
    steps = json.loads((output / "metrics.json").read_text())["steps"]
    assert steps[1]["map_at_100"] > 0.99
    assert steps[0]["map_at_100"] < 0.9
    rankings = Rankings.open(output)
    assert (rankings.rows[:, :5] % 4 == np.arange(4)[:, None]).all()
    stacked = f"gallery=[{stores}/gallery,{stores}/more]"
    status, _, errors = rerank(
        f"query={stores}/query", stacked, f"output={tmp_path / 'both'}", *chosen
    )
    assert (status, errors) == (0, "")
    rows = Rankings.open(tmp_path / "both").rows[:, :6]
    assert (np.isin(23 - np.arange(4), rows.ravel())).all()


@pytest.mark.parametrize("name", RERANKERS)
def test_the_command_reranks_with_a_fit(rerank, stores, fits, tmp_path, name):
    method = name.removesuffix("_binary")
    chosen = f"rerank={method}", f"rerank.{method}.weights={fits[name]}"
    status, _, errors = rerank(*arguments(stores, tmp_path / "out"), *chosen)
    assert (status, errors) == (0, "")
    ours = Rankings.open(tmp_path / "out")
    opened = Stores.open(stores / "query", stores / "gallery", local=["patches"])
    again = RERANKERS[name](weights=fits[name])(opened.search(Flat(), 20))
    np.testing.assert_array_equal(ours.rows, again.rows)
    np.testing.assert_array_equal(ours.scores, again.scores)
    step = json.loads((tmp_path / "out" / "meta.json").read_text())["steps"][1]
    assert step["weights"] == fits[name]


def test_the_command_refuses_what_does_not_fit_in_one_line(rerank, stores, fits, tmp_path):
    bare = tmp_path / "bare"
    DescriptorStore.write(bare, ["x"], np.eye(1, 4, dtype="f4"))
    other, _ = fitted(tmp_path / "other", "elvis", local_settings={"kind": "seen"})
    elvis = "rerank=elvis", f"rerank.elvis.weights={fits['elvis']}"
    seen = "rerank=elvis", f"rerank.elvis.weights={other}"
    wide = arguments(stores, tmp_path / "o", query="wide", gallery="wide_gallery")
    cases = [
        (arguments(stores, tmp_path / "o"), ("rerank=elvis",), "needs a fitted model"),
        (wide, elvis, "9 dimensions, and the elvis model was fitted on 8"),
        (arguments(stores, tmp_path / "o"), seen, "kind"),
        ((f"query={bare}", *arguments(stores, tmp_path / "o")[1:]), elvis, "'patches'"),
    ]
    for stores_of, chosen, message in cases:
        status, _, errors = rerank(*stores_of, *chosen)
        assert (status, errors.count("\n")) == (2, 1)
        assert errors.startswith("error: ")
        assert message in errors
        assert not (tmp_path / "o").exists()
