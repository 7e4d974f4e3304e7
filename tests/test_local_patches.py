"""Patches are the cells of the feature map, against a naive loop and real embedders."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.local import Patches
from landmark.model.build import build_embedder
from landmark.pooling import ClassToken, GeM

few = settings(max_examples=30, deadline=None)


def embedder_of(channels, neck=None, embedding_dim=None):
    return SimpleNamespace(
        backbone=SimpleNamespace(channels=[channels]),
        neck=torch.nn.Sequential(*([] if neck is None else [neck])).eval(),
        embedding_dim=embedding_dim or channels,
    )


def naive(feature_map, descriptor, size, top_k):
    """(strength, keypoint, unit vector) of each cell in Python floats, strongest first."""
    _, height, width = feature_map.shape
    cells = []
    for row in range(height):
        for column in range(width):
            cell = feature_map[:, row, column].double().numpy()
            cell = cell / np.linalg.norm(cell)
            x, y = (column + 0.5) * size[0] / width - 0.5, (row + 0.5) * size[1] / height - 0.5
            cells.append((float(cell @ descriptor.double().numpy()), (x, y), cell))
    return sorted(cells, key=lambda one: -one[0])[:top_k]


@few
@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 25))
def test_patches_are_the_cells_nearest_to_the_descriptor(seed, height, width, top_k):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 6, height, width, generator=generator)
    descriptors = torch.nn.functional.normalize(torch.randn(2, 6, generator=generator), dim=1)
    sizes = [(640, 480), (99, 1001)]
    photos = Patches(top_k).attach(embedder_of(6)).from_map(maps, descriptors, sizes)
    for photo, feature_map, descriptor, size in zip(photos, maps, descriptors, sizes, strict=True):
        expected = naive(feature_map, descriptor, size, top_k)
        assert photo.size == size
        assert photo.descriptors.dtype == np.float16
        np.testing.assert_allclose(photo.scores, [one[0] for one in expected], atol=1e-5)
        np.testing.assert_allclose(photo.keypoints, [one[1] for one in expected], rtol=1e-5)
        np.testing.assert_allclose(photo.descriptors, [one[2] for one in expected], atol=1e-3)


def test_the_neck_projects_the_cells_if_it_reduces_them():
    torch.manual_seed(0)
    neck = torch.nn.Linear(6, 3)
    maps, descriptors = torch.randn(1, 6, 2, 2), torch.randn(1, 3)
    photo = Patches().attach(embedder_of(6, neck, 3)).from_map(maps, descriptors, [(64, 64)])[0]
    with torch.no_grad():
        projected = neck(maps.flatten(2).transpose(1, 2)[0])
    expected = torch.nn.functional.normalize(projected, dim=1).numpy()
    order = np.lexsort(photo.keypoints.T)
    np.testing.assert_allclose(photo.descriptors[order], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("neck", "embedding_dim", "project", "dim"),
    [
        (None, 6, "auto", 6),
        (torch.nn.Linear(6, 3), 3, "auto", 3),
        (torch.nn.Linear(6, 3), 3, "none", 6),
        (torch.nn.Linear(6, 9), 9, "auto", 6),
        (torch.nn.Linear(6, 9), 9, "neck", 9),
        (torch.nn.Linear(12, 3), 3, "auto", 6),
    ],
)
def test_the_dimension_is_known_from_the_embedder(neck, embedding_dim, project, dim):
    patches = Patches(project=project).attach(embedder_of(6, neck, embedding_dim))
    assert patches.dim == dim
    with torch.no_grad():
        photo = patches.from_map(
            torch.randn(1, 6, 2, 3), torch.randn(1, embedding_dim), [(64, 64)]
        )[0]
    assert photo.dim == dim
    assert len(photo) == 6


def test_a_neck_of_other_vectors_gives_one_line():
    with pytest.raises(UserError, match=r"project=neck: .* does not take the 6 channels"):
        Patches(project="neck").attach(embedder_of(6, torch.nn.Linear(12, 3), 3))


def test_equal_cells_are_in_reading_order():
    photo = (
        Patches(3)
        .attach(embedder_of(2))
        .from_map(torch.ones(1, 2, 2, 2), torch.ones(1, 2), [(64, 64)])[0]
    )
    assert photo.keypoints.tolist() == [[15.5, 15.5], [47.5, 15.5], [15.5, 47.5]]


def test_positions_are_those_of_the_part_that_the_map_shows():
    photo = (
        Patches()
        .attach(embedder_of(2))
        .from_map(torch.ones(1, 2, 1, 2), torch.ones(1, 2), [(100, 40)], [(20.0, 0.0, 60.0, 40.0)])[
            0
        ]
    )
    assert photo.keypoints.tolist() == [[29.5, 19.5], [49.5, 19.5]]


def test_maps_in_half_precision_are_normalised_in_float32():
    maps = torch.randn(1, 6, 3, 3).bfloat16()
    patches = Patches().attach(embedder_of(6, torch.nn.Linear(6, 3), 3))
    with torch.no_grad():
        photo = patches.from_map(maps, torch.randn(1, 3), [(64, 64)])[0]
    norms = np.linalg.norm(photo.descriptors.astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "pooling", "size", "dim"),
    [
        ("resnet10t", GeM(), 96, 64),
        ("vit_tiny_patch16_224", ClassToken(), 64, 64),
    ],
)
def test_maps_of_networks_and_tokens_of_transformers_become_patches(backbone, pooling, size, dim):
    embedder = build_embedder(backbone, pooling, embedding_dim=64, image_size=size).eval()
    patches = pickle.loads(pickle.dumps(Patches().attach(embedder)))
    with torch.inference_mode():
        features = embedder.features(torch.rand(2, 3, size, size))
        embeddings = embedder.embed(features)
        photos = patches.from_map(features.maps[-1], embeddings, [(300, 200)] * 2)
    height, width = features.maps[-1].shape[2:]
    for photo in photos:
        assert photo.dim == patches.dim == dim
        assert len(photo) == height * width
        assert (photo.keypoints > 0).all()
        assert (photo.keypoints < photo.size).all()
        assert (np.diff(photo.scores) <= 0).all()


def test_maps_before_attach_are_an_error_of_the_caller():
    with pytest.raises(ValueError, match="call attach first"):
        Patches().from_map(torch.ones(1, 2, 1, 1), torch.ones(1, 2), [(8, 8)])
