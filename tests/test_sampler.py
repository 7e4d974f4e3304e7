"""Properties of all samplers on random collections, and the distribution of each."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.sampler import Aspect, Balanced, PerClass, Shuffle


@st.composite
def collections(draw, one_group: bool = False):
    """Generate aspect groups and landmarks of 1 to 120 photos, rare and frequent ones."""
    photos = draw(st.integers(1, 120))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    groups = random.choice([0, 1, 4], photos, p=[0.8, 0.15, 0.05])
    labels = np.minimum(random.geometric(0.2, photos), 9) * 7
    return (np.zeros_like(groups) if one_group else groups), labels


def all_batches(make, collection, replicas: int, epoch: int = 0, **options):
    """Return the batches of every rank: batches[rank][step]."""
    groups, labels = collection
    ranks = []
    for rank in range(replicas):
        sampler = make(groups=groups, labels=labels, num_replicas=replicas, rank=rank, **options)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(batches)
    return ranks


MAKERS = [
    partial(Aspect, batch_size=4),
    partial(Aspect, batch_size=1),
    partial(Balanced, batch_size=4),
    partial(PerClass, batch_size=6, classes_per_batch=3, photos_per_class=2),
]
makers = pytest.mark.parametrize(
    "make", MAKERS, ids=["aspect", "aspect_singly", "balanced", "per_class"]
)


@makers
@given(collections(), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_all_ranks_have_the_same_number_of_steps(make, collection, replicas, epoch):
    groups, _ = collection
    ranks = all_batches(make, collection, replicas, epoch)
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        assert len({len(batch) for batch in step}) == 1
        rows = np.concatenate(step)
        assert len(set(groups[rows])) == 1
        assert all(isinstance(row, int) for batch in step for row in batch)
        assert make.keywords["batch_size"] == 1 or min(map(len, step)) > 1


@makers
def test_the_order_depends_on_seed_and_epoch(make):
    random = np.random.default_rng(0)
    collection = random.integers(0, 2, 90), random.integers(0, 9, 90)
    orders = {
        (seed, epoch): all_batches(make, collection, 1, epoch, seed=seed)[0]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert orders[0, 1] == all_batches(make, collection, 1, 1, seed=0)[0]
    assert len({str(order) for order in orders.values()}) == 4


@makers
@given(collections(), st.integers(0, 12))
@settings(max_examples=15, deadline=None)
def test_start_batch_skips_exactly_the_first_batches(make, collection, start):
    groups, labels = collection
    sampler = make(groups=groups, labels=labels)
    sampler.set_epoch(3)
    whole, length = list(sampler), len(sampler)
    sampler.set_epoch(3, start_batch=start)
    assert list(sampler) == whole[start:]
    assert len(sampler) == length
    sampler.set_epoch(4)
    assert len(list(sampler)) == length


@given(collections(), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_aspect_samples_every_photo_once_except_for_padding(collection, replicas, batch_size):
    groups, _ = collection
    ranks = all_batches(partial(Aspect, batch_size=batch_size), collection, replicas)
    seen = Counter(row for batches in ranks for batch in batches for row in batch)
    assert set(seen) == set(range(len(groups)))
    for group in set(groups):
        rows = np.flatnonzero(groups == group)
        repeats = sum(seen[row] for row in rows) - len(rows)
        assert repeats <= 2 * replicas - 1
        if len(rows) > repeats:
            assert max(seen[row] for row in rows) <= 2
        if len(rows) % (replicas * batch_size) == 0:
            assert repeats == 0


@given(collections(), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_drop_last_yields_only_complete_batches(collection, replicas):
    groups, _ = collection
    whole = sum(count // (4 * replicas) for count in Counter(groups).values())
    make = partial(Aspect, batch_size=4, drop_last=True)
    if whole == 0:
        with pytest.raises(UserError, match="drop_last"):
            all_batches(make, collection, replicas)
        return
    ranks = all_batches(make, collection, replicas)
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(ranks[0]) == whole
    assert len(rows) == len(set(rows)) == whole * 4 * replicas


@given(collections(one_group=True), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_shuffle_samples_every_photo(collection, replicas):
    ranks = all_batches(partial(Shuffle, batch_size=4), collection, replicas)
    assert {row for batches in ranks for batch in batches for row in batch} == set(
        range(len(collection[0]))
    )


def test_shuffle_refuses_several_sizes():
    with pytest.raises(UserError, match=r"sampler=shuffle needs one image size.*sampler=aspect"):
        Shuffle(groups=np.array([0, 0, 1]), labels=np.zeros(3, int), batch_size=2)


def test_balanced_samples_each_landmark_equally_often():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), [400, 100, 50, 20, 6, 1])
    groups = random.integers(0, 3, len(labels))
    drawn = np.zeros(6)
    photos = Counter()
    for epoch in range(60):
        for batch in all_batches(partial(Balanced, batch_size=8), (groups, labels), 1, epoch)[0]:
            drawn += np.bincount(labels[batch], minlength=6)
            photos.update(batch)
    assert np.abs(drawn / drawn.sum() - 1 / 6).max() < 0.01
    assert set(photos) == set(range(len(labels)))
    within = [photos[row] for row in np.flatnonzero(labels == 2)]
    assert max(within) < 1.2 * min(within)


@given(collections(), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_per_class_batches_have_p_landmarks_of_k_photos(collection, replicas):
    groups, labels = collection
    ranks = all_batches(MAKERS[3], collection, replicas)
    for batch in (batch for batches in ranks for batch in batches):
        in_group = labels[groups == groups[batch[0]]]
        per_landmark = Counter(labels[batch].tolist())
        assert len(per_landmark) == min(3, len(set(in_group)))
        assert set(per_landmark.values()) == {2}
        for landmark in per_landmark:
            rows = [row for row in batch if labels[row] == landmark]
            assert len(set(rows)) == min(2, int((in_group == landmark).sum()))


def test_per_class_uses_all_photos_of_a_landmark_before_repeating():
    collection = np.zeros(48, int), np.repeat(np.arange(4), 12)
    make = partial(PerClass, batch_size=8, classes_per_batch=4, photos_per_class=2)
    ranks = all_batches(make, collection, 2)
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(48))


def test_per_class_names_an_inconsistent_batch_size():
    with pytest.raises(UserError, match=r"8 x sampler\.photos_per_class=4 is not batch_size=9"):
        PerClass(groups=np.zeros(9, int), labels=np.zeros(9, int), batch_size=9)


@makers
def test_no_photos_is_a_user_error(make):
    with pytest.raises(UserError, match="no photos"):
        make(groups=np.zeros(0, int), labels=np.zeros(0, int))


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (Aspect, {"batch_size": 0}, "batch_size=0 is not valid. Pass a whole number > 0"),
        (Balanced, {"batch_size": 2, "seed": -1}, "seed=-1 is not valid"),
        (Aspect, {"batch_size": 2, "drop_last": 1}, "drop_last=1 is not valid. Pass true or false"),
        (PerClass, {"batch_size": 4, "classes_per_batch": 0}, "classes_per_batch=0 is not valid"),
        (PerClass, {"batch_size": 4, "photos_per_class": -4}, "photos_per_class=-4 is not valid"),
    ],
)
def test_settings_out_of_range(make, options, match):
    with pytest.raises(UserError, match=match):
        make(groups=np.zeros(9, int), labels=np.zeros(9, int), **options)


@makers
def test_a_rank_beyond_the_world_size_is_a_value_error(make):
    with pytest.raises(ValueError, match="rank 2"):
        make(groups=np.zeros(9, int), labels=np.zeros(9, int), num_replicas=2, rank=2)


def test_an_epoch_of_a_million_photos_is_sampled_in_seconds():
    random = np.random.default_rng(0)
    labels = random.zipf(1.5, 1_000_000) % 50_000
    groups = random.integers(0, 5, len(labels))
    for make in (Aspect, Balanced, PerClass):
        sampler = make(groups=groups, labels=labels, batch_size=32, num_replicas=8)
        _, sizes = sampler.draw(np.random.default_rng(0))
        assert len(sizes) == len(sampler)
