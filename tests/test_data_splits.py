"""Splits, filters and grouped batches against naive loops."""

import hashlib
import json
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.data.batches import grouped_batches
from landmark.data.earlier_splits import draw_earlier_splits
from landmark.data.image_table import sorted_landmarks
from landmark.data.splits import draw_splits, filter_photos, uniform
from landmark.error import UserError

LANDMARKS = st.lists(st.integers(0, 9).map(str), min_size=1, max_size=120)


def photos_of(landmarks: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"é/{n}.jpg" for n in range(len(landmarks))]}).assign(
        landmark_id=landmarks
    )


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 as published, then the finaliser of SplitMix64."""
    mask = 2**64 - 1

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    first, second = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    v = [
        word ^ constant
        for word, constant in zip(
            (first, second, first, second),
            (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573),
            strict=True,
        )
    ]
    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little") | (len(data) & 255) << 56)
    for word in words:
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 255
    rounds(4)
    value = v[0] ^ v[1] ^ v[2] ^ v[3]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ value >> shift) * factor & mask
    return value ^ value >> 31


def naive_number(landmark: str, photo: str, seed: int, purpose: str) -> float:
    settings = json.dumps({"purpose": purpose, "seed": seed}, sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()[:16].encode()
    text = unicodedata.normalize("NFC", f"{landmark}\0{photo}")
    return (siphash(key, text.encode()) >> 11) / 2**53


def naive_splits(
    photos: pd.DataFrame, query: float, gallery: float, seed: int
) -> tuple[list[str], int]:
    """Draw landmark by landmark and photo by photo; also count the forced photos."""
    splits, forced = {}, 0
    for landmark, rows in photos.groupby("landmark_id"):
        numbers = {
            row: naive_number(str(landmark), photo, seed, "splits")
            for row, photo in rows["id"].items()
        }
        plain = {
            row: "query" if n < query else "gallery" if n < query + gallery else "train"
            for row, n in numbers.items()
        }
        counts, photos_left = Counter(plain.values()), len(rows)
        queries, searched = counts["query"], counts["gallery"]
        if photos_left < 3:
            queries = searched = 0
        else:
            queries = min(max(queries, 1 if query else 0), photos_left - 2)
            searched = min(max(searched, 1 if gallery else 0), photos_left - 1 - queries)
        for position, row in enumerate(sorted(numbers, key=numbers.__getitem__)):
            is_searched = position < queries + searched
            splits[row] = "query" if position < queries else "gallery" if is_searched else "train"
            forced += splits[row] != plain[row]
    return [splits[row] for row in photos.index], forced


@settings(max_examples=40, deadline=None)
@given(LANDMARKS, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.6]))
def test_splits_equal_a_naive_loop(landmarks, query, gallery):
    photos = photos_of(landmarks)
    draw = draw_splits(photos, query, gallery, seed=3)
    assert (draw.splits.tolist(), draw.forced) == naive_splits(photos, query, gallery, seed=3)


def test_the_draw_of_a_photo_is_the_same_on_every_platform_and_in_every_version():
    """Runs keep their splits for years: these numbers must never change."""
    photos = pd.DataFrame({"id": ["a/1.jpg", "a/2.jpg", "Köln/é.jpg"], "landmark_id": ["a"] * 3})
    numbers = uniform(photos, 0, "splits")
    assert numbers.tolist() == [naive_number("a", photo, 0, "splits") for photo in photos["id"]]
    assert numbers.round(6).tolist() == [0.205598, 0.786883, 0.650917]
    other_form = photos.assign(id=[unicodedata.normalize("NFD", photo) for photo in photos["id"]])
    assert uniform(other_form, 0, "splits").tolist() == numbers.tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("abcde"), min_size=30, max_size=120),
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6),
)
def test_other_photos_change_only_what_minimum_counts_decide(landmarks, added):
    before = photos_of(landmarks)
    after = photos_of(landmarks + added).sample(frac=1, random_state=len(added))
    one, other = draw_splits(before, 0.1, 0.2, seed=0), draw_splits(after, 0.1, 0.2, seed=0)
    old = pd.Series(one.splits, before["id"])
    new = pd.Series(other.splits, after["id"])[before["id"]]
    changed = int((old != new).sum())
    assert changed <= one.forced + other.forced
    untouched = ~before["landmark_id"].isin(added).to_numpy()
    assert (old[untouched] == new[untouched]).all()


def test_the_shares_are_those_of_the_fractions_in_expectation():
    photos = photos_of([str(number % 40) for number in range(20_000)])
    draw = draw_splits(photos, 0.1, 0.2, seed=0)
    shares = pd.Series(draw.splits).value_counts(normalize=True)
    assert draw.forced == 0
    assert abs(shares["query"] - 0.1) < 0.01
    assert abs(shares["gallery"] - 0.2) < 0.01
    held_out = draw_splits(photos[draw.splits == "train"], 0.1, 0.2, 0, purpose="validation")
    assert abs((held_out.splits == "query").mean() - 0.1) < 0.01  # independent of the splits


def test_splits_depend_on_the_seed_and_refuse_invalid_fractions():
    photos = photos_of(["a"] * 50)
    one, other = (draw_splits(photos, 0.1, 0.2, seed).splits for seed in (0, 1))
    assert (one != other).any()
    with pytest.raises(UserError, match="sum below 1"):
        draw_splits(photos, 0.5, 0.5, 0)


@settings(max_examples=40, deadline=None)
@given(LANDMARKS, st.integers(1, 5))
def test_hold_out_of_some_landmarks(landmarks, number):
    photos = photos_of(landmarks)
    draw = draw_splits(photos, 0.2, 0.3, seed=1, landmarks=number)
    counts = Counter(landmarks)
    able = [landmark for landmark, count in counts.items() if count >= 3]
    held = set(photos["landmark_id"][draw.splits != "train"])
    assert len(held) == min(number, max(1, len(counts) // 10), len(able))
    everything = draw_splits(photos, 0.2, 0.3, seed=1).splits
    is_held = photos["landmark_id"].isin(held).to_numpy()
    assert (draw.splits[is_held] == everything[is_held]).all()
    # Without a landmark that is not held out, the same landmarks are.
    rest = photos[~photos["landmark_id"].isin([name for name in able if name not in held][:1])]
    if max(1, rest["landmark_id"].nunique() // 10) == max(1, len(counts) // 10):
        again = draw_splits(rest, 0.2, 0.3, seed=1, landmarks=number).splits
        assert set(rest["landmark_id"][again != "train"]) == held


@settings(max_examples=40, deadline=None)
@given(LANDMARKS, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.6]))
def test_earlier_splits_have_the_rounded_shares_of_each_landmark(landmarks, query, gallery):
    splits = draw_earlier_splits(photos_of(landmarks), query, gallery, seed=3)
    for landmark, photos in Counter(landmarks).items():
        found = Counter(splits[np.array(landmarks) == landmark])
        queries = searched = 0
        if photos >= 3:
            queries = min(photos - 2, max(1, round(photos * query))) if query else 0
            left = photos - 1 - queries
            searched = min(left, max(1, round(photos * gallery))) if gallery else 0
        assert (found["query"], found["gallery"]) == (queries, searched)


@settings(max_examples=60, deadline=None)
@given(
    LANDMARKS,
    st.none() | st.integers(1, 6),
    st.integers(1, 6),
    st.none() | st.integers(1, 6),
)
def test_filters_equal_a_naive_loop(landmarks, most_frequent, min_photos, max_photos):
    rows = pd.DataFrame({"id": range(len(landmarks)), "landmark_id": landmarks})
    kept = filter_photos(rows, most_frequent, min_photos, max_photos, seed=2)
    by_count = sorted(
        Counter(landmarks).items(), key=lambda pair: -pair[1]
    )  # stable: ties in order
    expected = {
        landmark: photos if max_photos is None else min(photos, max_photos)
        for landmark, photos in by_count[:most_frequent]
        if photos >= min_photos
    }
    assert Counter(kept["landmark_id"]) == expected
    assert kept["id"].is_monotonic_increasing
    assert (rows.loc[kept["id"], "landmark_id"].to_numpy() == kept["landmark_id"]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 4))
def test_grouped_batches_contain_every_row_once(groups, batch_size, num_replicas):
    groups = np.array(groups)
    shares = [grouped_batches(groups, batch_size, num_replicas, r) for r in range(num_replicas)]
    for batches in shares:
        assert all(1 <= len(rows) <= batch_size for rows in batches)
        assert all(len(set(groups[rows])) == 1 for rows in batches)
        assert [rows[0] for rows in batches] == sorted(rows[0] for rows in batches)
    seen = [row for batches in shares for rows in batches for row in rows.tolist()]
    assert sorted(seen) == list(range(len(groups)))
    sizes = [sum(map(len, batches)) for batches in shares]
    assert max(sizes) - min(sizes) <= 1


def test_numeric_landmarks_are_sorted_by_value():
    assert sorted_landmarks(pd.Series(["10", "9", "9", "100"])) == ["9", "10", "100"]
    assert sorted_landmarks(pd.Series(["10", "9", "b"])) == ["10", "9", "b"]
