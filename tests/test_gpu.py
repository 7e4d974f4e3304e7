"""Training, validation, extraction, search and re-ranking on a GPU equal the CPU.

Run with `make test-gpu`. Without CUDA every test here skips.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.cli.store import store
from landmark.head import Full, Fused, Sampled
from landmark.loss import ArcFace, CurricularFace, SubCenterArcFace
from landmark.loss.build import build_loss
from landmark.model.build import build_embedder
from landmark.model.inference import for_inference
from landmark.pooling import GeM
from landmark.rerank import KReciprocal
from landmark.rerank.chain import run_chain
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.stores import Stores
from landmark.search import ExactTorch, Flat
from landmark.search.pair_products import pair_kernel, pair_products

ROOT = Path(__file__).resolve().parents[1]
RERANKERS = {
    "alpha_qe": "rerank.alpha_qe.n=3",
    "aqe_decay": "rerank.aqe_decay.n=3",
    "dba": "rerank.dba.n=4",
    "adba": "rerank.adba.n=4",
    "two_stage": "rerank.two_stage.k=3",
    "diffusion": "rerank.diffusion.n_trunc=60",
    "online_diffusion": "rerank.online_diffusion.kd=10",
    "egt": "rerank.egt.k=10",
    "k_reciprocal": "rerank.k_reciprocal.k1=10",
    "superglobal": "rerank.superglobal.m=40",
    "rank_fusion": "rerank.rank_fusion.constant=60",
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Return a folder for small runs, whose photos are drawn once."""
    return tmp_path_factory.mktemp("gpu")


def overrides(world: Path, *more: str) -> list[str]:
    """Return the overrides of a small training run with every aspect group."""
    return [
        "data=toy",
        f"data.root={world / 'toy'}",
        "data.landmarks=6",
        "data.photos=12",
        "data.scale=0.4",
        "image=xs",
        "model=resnet10t",
        "model.embedding_dim=32",
        "optimizer=adamw",
        "batch_size=8",
        "workers=2",
        "trainer=gpu",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        *more,
    ]


def train(scripts, world: Path, name: str, *more: str) -> Path:
    folder = world / name
    scripts.run("train.py", *overrides(world, *more, f"hydra.run.dir={folder}"), cwd=world)
    return folder


def logged(folder: Path, column: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "embedder" / "weights.safetensors")


def test_a_compiled_backbone_trains_at_all_five_sizes(scripts, world):
    # First, because it takes longest: processes share the tests out in the order of the file.
    # The smallest backbone and no validation, because compiling takes longer than all other tests.
    settings = ("task.compile=true", "model.backbone=test_resnet", "trainer.precision=32-true")
    settings += ("trainer.max_epochs=1", "trainer.limit_val_batches=0", "keep=last")
    settings += ("sampler.drop_last=true", "batch_size=4", "trainer.log_every_n_steps=1")
    folder = train(scripts, world, "compiled", *settings)
    assert np.isfinite(logged(folder, "train/loss")).all()
    extract(scripts, world, folder, "compiled", "split=query", "device=cuda")


@pytest.mark.parametrize(
    "settings",
    [
        ("pooling=salad", "pooling.token_dim=0", "pooling.clusters=8"),
        ("pooling=boq",),
        ("pooling=dolg",),
        ("pooling=regional_gem", "model.relup=0.01"),
        ("loss.nested=[8,16,32]", "head=fused"),
        ("loss.nested=[8,16,32]", "head=class_parallel"),
        ("loss=recall_at_k", "loss.simix=true", "sampler=per_class", "sampler.classes_per_batch=2"),
    ],
)
def test_training_with_each_kind_of_pooling_and_loss(scripts, world, settings):
    name = "-".join(settings).replace("/", "-")
    folder = train(scripts, world, name, *settings, "trainer.precision=bf16-mixed")
    assert np.isfinite(logged(folder, "train/loss")).all()
    assert all(torch.isfinite(value).all() for value in weights(folder).values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("head", ["full", "fused", "sampled", "class_parallel"])
def test_training_with_each_head(scripts, world, head, precision):
    name = f"{head}-{precision}"
    ratio = ("head.ratio=0.5",) if head == "sampled" else ()
    folder = train(scripts, world, name, f"head={head}", *ratio, f"trainer.precision={precision}")
    assert np.isfinite(logged(folder, "train/loss")).all()
    assert len(logged(folder, "val/map_at_100")) == 2
    assert all(torch.isfinite(value).all() for value in weights(folder).values())


@pytest.mark.parametrize("loss", [ArcFace, SubCenterArcFace, CurricularFace])
def test_fused_gradients_equal_those_of_full(loss):
    found = [gradients(loss, head) for head in (Full(), Fused(block=512))]
    for full, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, full, rtol=1e-4, atol=1e-6)


def gradients(loss, head, dim=64, classes=5000, batch=32):
    """Return loss and gradients of embeddings and centres, for the same weights and photos."""
    torch.manual_seed(0)
    made = build_loss(loss, dim, np.ones(classes, int), head).cuda()
    embeddings = torch.randn(batch, dim, device="cuda", requires_grad=True)
    labels = torch.randint(classes, (batch,), device="cuda")
    value = made(embeddings, labels)
    value.backward()
    return value.detach(), embeddings.grad, made.weight.grad.to_dense()


def test_sampled_gradients_equal_those_of_full_over_the_sampled_classes():
    torch.manual_seed(0)
    classes, dim, batch = 5000, 64, 32
    loss = build_loss(ArcFace, dim, np.ones(classes, int), Sampled(ratio=0.1)).cuda()
    embeddings = torch.randn(batch, dim, device="cuda", requires_grad=True)
    labels = torch.randint(classes, (batch,), device="cuda")
    value = loss(embeddings, labels)
    value.backward()
    drawn = loss.weight.grad.coalesce().indices()[0]
    assert len(drawn) == 500
    assert set(labels.tolist()) <= set(drawn.tolist())
    alone = build_loss(ArcFace, dim, np.ones(len(drawn), int), Full()).cuda()
    with torch.no_grad():
        alone.weight.copy_(loss.weight[drawn])
    copied = embeddings.detach().clone().requires_grad_()
    expected = alone(copied, torch.searchsorted(drawn, labels))
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(embeddings.grad, copied.grad, rtol=1e-4, atol=1e-6)
    values = loss.weight.grad.coalesce().values()
    torch.testing.assert_close(values, alone.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_run_resumed_in_mid_epoch_equals_an_uninterrupted_one(scripts, world):
    settings = ("trainer.max_epochs=3", "trainer.deterministic=true", "save_every_steps=1")
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    whole, stopped = world / "whole", world / "stopped"
    for folder in (whole, stopped):
        command = [sys.executable, str(ROOT / "train.py")]
        command += overrides(world, *settings, f"hydra.run.dir={folder}")
        running = subprocess.Popen(command, cwd=world, env=environment)
        if folder == whole:
            assert running.wait(timeout=240) == 0
            continue
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").is_file():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=120) == 143
        step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        assert 0 < step < 18
        assert subprocess.run(command, cwd=world, env=environment, check=False).returncode == 0
    assert logged(stopped, "val/map_at_100") == logged(whole, "val/map_at_100")
    for name, value in weights(whole).items():
        assert torch.equal(weights(stopped)[name], value), name


@pytest.fixture(scope="module")
def run(scripts, world) -> Path:
    """Return a trained run whose validation photos are extracted at the same size."""
    return train(scripts, world, "run", "trainer.precision=32-true")


def extract(scripts, world: Path, run: Path, name: str, *more: str) -> DescriptorStore:
    output = world / "stores" / name
    settings = [f"embedder={run / 'embedder'}", f"output={output}", "workers=2", *more]
    scripts.run("extract.py", *settings, cwd=world)
    return DescriptorStore.open(output)


def test_validation_on_the_gpu_equals_the_cpu(scripts, world, run):
    for split in ("query", "gallery"):
        last = f"embedder={run / 'checkpoints' / 'last.ckpt'}"
        settings = (last, f"split={split}", "extract=single", "device=cpu")
        extract(scripts, world, run, f"validation-{split}", *settings)
    stores = [f"{split}={world}/stores/validation-{split}" for split in ("query", "gallery")]
    output = world / "rankings" / "validation"
    scripts.run("rerank.py", *stores, f"output={output}", "report=0", cwd=world)
    expected = Rankings.open(output).metrics["map_at_100"]
    assert logged(run, "val/map_at_100")[-1] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("precision", "least"), [("32", 0.9999), ("16", 0.999), ("bf16", 0.99)])
def test_descriptors_equal_those_of_the_cpu(scripts, world, run, precision, least):
    if not (world / "stores" / "cpu").is_dir():
        extract(scripts, world, run, "cpu", "split=gallery", "device=cpu")
    settings = ("split=gallery", "device=cuda", f"precision={precision}")
    ours = extract(scripts, world, run, f"cuda-{precision}", *settings)
    expected = DescriptorStore.open(world / "stores" / "cpu")
    assert ours.ids.tolist() == expected.ids.tolist()
    cosines = (ours.vectors * expected.vectors).sum(axis=1)
    assert cosines.min() > least


def test_distillation_from_a_store_of_a_teacher(scripts, world, run):
    teacher = extract(scripts, world, run, "teacher", "split=train", "device=cuda").path
    settings = ("auxiliary=[distil]", f"auxiliary.distil.teacher={teacher}")
    folder = train(scripts, world, "student", *settings)
    assert np.isfinite(logged(folder, "train/loss")).all()


@pytest.mark.parametrize("name", ["patches", "rootsift", "xfeat", "aliked"])
def test_local_features_equal_those_of_the_cpu(scripts, world, run, name):
    if name in {"xfeat", "aliked"}:
        for package in (f"scm_{name.replace('aliked', 'lightglue')}", "kornia"):
            pytest.importorskip(package)
    found, expected = (
        extract(
            scripts, world, run, f"{name}-{device}", "split=query", f"local={name}",
            f"device={device}", "local.top_k=30",
        ).local(name)
        for device in ("cuda", "cpu")
    )  # fmt: skip
    shared = total = 0
    for ours, theirs in zip(found, expected, strict=True):
        at = {tuple(point): row for row, point in enumerate(theirs.keypoints.round().tolist())}
        rows = [at.get(tuple(point), -1) for point in ours.keypoints.round().tolist()]
        both = np.flatnonzero(np.array(rows, int) >= 0)
        total, shared = total + len(rows), shared + len(both)
        one, other = (
            np.asarray(descriptors, np.float32)
            for descriptors in (
                ours.descriptors[both],
                theirs.descriptors[np.array(rows, int)[both]],
            )
        )
        if name == "rootsift":  # a keypoint may have several orientations
            continue
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        assert ((one * other).sum(axis=1) >= 0.99 * lengths).all()
    assert total
    assert shared >= 0.95 * total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["resnet10t", "resnext50_32x4d", "tf_efficientnet_lite0", "dla34"])
@torch.inference_mode()
def test_the_copy_for_inference_equals_the_embedder(name, dtype):
    torch.manual_seed(0)
    embedder = build_embedder(name, GeM(), embedding_dim=64).cuda().eval()
    images = torch.randint(0, 256, (4, 3, 96, 128), dtype=torch.uint8, device="cuda")
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        fused = for_inference(embedder, torch.device("cuda"), dtype)(images)
    expected = embedder(images)
    cosines = torch.nn.functional.cosine_similarity(fused.float(), expected, dim=1)
    assert (
        cosines.min() > {torch.float32: 0.99999, torch.float16: 0.999, torch.bfloat16: 0.99}[dtype]
    )


@pytest.mark.parametrize("pairs", [1, 7, 300, 100_000, 2_000_000])
@pytest.mark.parametrize("dim", [1, 3, 64, 512, 515, 2048])
def test_pair_products_do_not_depend_on_the_other_pairs(dim, pairs):
    random = torch.Generator().manual_seed(pairs + dim)
    query, gallery = (
        torch.randn(count, dim, generator=random, dtype=torch.float64) for count in (3, 25)
    )
    # Each vector many times, at other places.
    query, gallery = query.repeat(1000, 1).cuda(), gallery.repeat(40, 1).cuda()
    pair = torch.randperm(3_000_000, generator=random)[:pairs].sort().values.cuda()
    queries, rows = pair // 1000, pair % 1000
    assert pair_kernel(query.device) is not None
    products = pair_products(query, gallery, queries, rows)
    alone = query.new_empty(3, 25)
    for row in range(75):
        alone[row // 25, row % 25] = pair_products(
            query, gallery, queries.new_tensor([row // 25]), rows.new_tensor([row % 25])
        )
    assert torch.equal(products, alone[queries % 3, rows % 25])
    torch.testing.assert_close(alone, query[:3] @ gallery[:25].T, rtol=0, atol=1e-11)
    some = slice(1, 1 + pairs // 2)  # at an address of another alignment
    assert torch.equal(pair_products(query, gallery, queries[some], rows[some]), products[some])


def test_pair_products_without_the_kernel_are_close(monkeypatch):
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 40, 515, generator=random, dtype=torch.float64).cuda()
    at = torch.arange(40, device="cuda")
    found = pair_products(*vectors, at, at.flip(0))
    monkeypatch.setattr("landmark.search.pair_products.pair_kernel", lambda _: None)
    expected = pair_products(*vectors, at, at.flip(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def whole_numbers(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return vectors whose products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exact_torch_equals_the_cpu(dtype):
    query, gallery = whole_numbers(300, 32, 0), whole_numbers(20_000, 32, 1).astype(dtype)
    settings = {"block_rows": 4096, "block_queries": 128}
    found = ExactTorch("cuda", **settings).build(gallery).search(query, 50)
    expected = Flat("cpu").build(gallery).search(query, 50)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_leading_dimensions_are_searched_on_the_gpu():
    query, gallery = whole_numbers(300, 32, 0), whole_numbers(20_000, 32, 1)
    for refine in (0, 4):
        search = {"dims": 8, "refine": refine}
        found = ExactTorch("cuda", **search).build(gallery).search(query, 50)
        expected = ExactTorch("cpu", **search).build(gallery).search(query, 50)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
        assert (found[0] == expected[0]).mean() > 0.98


def test_stores_of_8_bits_and_1_bit_are_searched_on_the_gpu(clusters, world):
    for dtype in ("int8", "bit"):
        store([
            "apply", str(clusters["gallery"]), str(world / "clusters" / dtype), "--dtype", dtype,
        ])  # fmt: skip
        gallery = DescriptorStore.open(world / "clusters" / dtype).vectors
        query = DescriptorStore.open(clusters["query"]).vectors
        found, expected = (
            ExactTorch(device).build(gallery).search(query, 20) for device in ("cuda", "cpu")
        )
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_faiss_on_the_gpu_equals_the_cpu():
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "knn_gpu") or not faiss.get_num_gpus():
        pytest.skip("faiss without GPU support")
    query, gallery = whole_numbers(300, 32, 0), whole_numbers(20_000, 32, 1)
    found, expected = (Flat(device).build(gallery).search(query, 50) for device in ("cuda", "cpu"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_exact_torch_in_small_blocks_returns_the_same():
    query, gallery = whole_numbers(300, 32, 0), whole_numbers(5000, 32, 1)
    found = ExactTorch("cuda", 1024, 16).build(gallery).search(query, 50)
    for ours, theirs in zip(found, Flat("cpu").build(gallery).search(query, 50), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_k_reciprocal_computes_on_the_device_of_the_index(device):
    photos = whole_numbers(2000, 32, 0) / 32
    retrieval = Retrieval.from_search(photos[:50], photos[50:], 20, ExactTorch(device))
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    KReciprocal()(retrieval)
    after = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    assert (after > before) == (device == "cuda")


@pytest.fixture(scope="module")
def clusters(world) -> dict[str, Path]:
    """Write stores of 30 landmarks with similar photos."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((30, 48))
    stores = {}
    for name, photos in (("query", 2), ("gallery", 8), ("train", 6)):
        labels = np.repeat(np.arange(30), photos)
        vectors = centres[labels] + 0.7 * random.standard_normal((len(labels), 48))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{name}-{row}" for row in range(len(labels))]
        stores[name] = world / "clusters" / name
        DescriptorStore.write(stores[name], ids, vectors.astype("float32"), labels.astype(str))
    return stores


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_on_cuda_equals_the_cpu(clusters, name):
    stores = Stores.open(**clusters)
    steps = ["dba", "alpha_qe", name] if name == "rank_fusion" else [name]
    results = {}
    for search, device in (("exact_torch", "cuda"), ("flat", "cpu")):
        settings = [f"{key}={store}" for key, store in clusters.items()]
        settings += [f"search={search}", f"search.device={device}"]
        settings += [f"rerank=[{','.join(steps)}]", RERANKERS[name]]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("rerank", settings)
        first_search = partial(stores.search, instantiate(config.search), 100)
        rerankers = {step: instantiate(config.rerank[step]) for step in steps}
        results[device] = list(run_chain(first_search, rerankers, None))[-1]
    ours, expected = results["cuda"], results["cpu"]
    assert (ours.rows == expected.rows).mean() > 0.98
    np.testing.assert_allclose(ours.scores, expected.scores, atol=2e-3)


def test_the_command_applies_all_rerankers_on_cuda(scripts, world, clusters):
    output = world / "rankings" / "all"
    settings = [f"{key}={store}" for key, store in clusters.items()]
    settings += ["search=exact_torch", "search.device=cuda", f"rerank=[{','.join(RERANKERS)}]"]
    settings += [*RERANKERS.values(), "report=0", f"output={output}"]
    scripts.run("rerank.py", *settings, cwd=world)
    assert len(Rankings.open(output).metrics["steps"]) == 1 + len(RERANKERS)


@pytest.mark.parametrize("head", ["full", "class_parallel"])
def test_ddp_with_nccl_on_one_device(scripts, world, head):
    settings = ("trainer=ddp", "trainer.devices=1", "trainer.sync_batchnorm=true", f"head={head}")
    folder = train(scripts, world, f"ddp-{head}", *settings)
    assert np.isfinite(logged(folder, "train/loss")).all()
