"""Google Landmarks v1 (Noh et al., arXiv 1612.06321) as the Kaggle challenges of 2018 had it."""

from pathlib import Path

from landmark.data.gldv2 import GLDv2


class GLDv1(GLDv2):
    """1,225,029 train photos of 14,951 landmarks, with gallery and queries.

    Below the root: `train.csv` (`id,url,landmark_id`; landmark "None" is left out), `index.csv`
    and `test.csv` (`id,url`). The set was published as addresses, many of which are gone: take
    `skip_missing` after a download of one's own.

    Args:
        root: the folder.
        photos: where a photo lies: {split} is train, index or test; {a}, {b}, {c} are the first
            characters of the id.
        skip_missing, validation_landmarks, query_fraction, gallery_fraction: see `GLDv2`.
        most_frequent, min_photos, max_photos: filters of train, see `Filters`.
        seed: of the draws.
        bad_image: see `LandmarkSource`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        photos: str = "{split}/{id}.jpg",
        skip_missing: bool = False,
        validation_landmarks: int = 1000,
        query_fraction: float = 0.1,
        gallery_fraction: float = 0.2,
        most_frequent: int | None = None,
        min_photos: int = 1,
        max_photos: int | None = None,
        seed: int = 0,
        bad_image: str = "error",
    ) -> None:
        super().__init__(
            root,
            photos=photos,
            skip_missing=skip_missing,
            validation_landmarks=validation_landmarks,
            query_fraction=query_fraction,
            gallery_fraction=gallery_fraction,
            most_frequent=most_frequent,
            min_photos=min_photos,
            max_photos=max_photos,
            seed=seed,
            bad_image=bad_image,
        )
