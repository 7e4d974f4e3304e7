"""Data sets and loaders: every photo once per epoch, in the same order on any number of workers."""

import pickle
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from miniature import toy
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from landmark.data import Folder, LandmarkData
from landmark.data.batches import EpochBatches
from landmark.data.dataset import PhotoDataset, ScaledPhotoDataset
from landmark.error import UserError
from landmark.image import ImageFormat
from landmark.sampler import Aspect

SIZES = [[48, 32], [48, 40], [40, 40], [40, 48], [32, 48]]
FORMAT = ImageFormat(SIZES, augmentation="middle", smallest=16, multiple=8)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy"))


def landmark_data(source, **options) -> LandmarkData:
    data = LandmarkData(
        source, FORMAT, partial(Aspect), **({"batch_size": 4, "workers": 0} | options)
    )
    data.setup()
    return data


def test_labels_follow_the_classes(source):
    data = landmark_data(source)
    assert data.classes == list("012345")
    for table, labels in (
        (data.query_table, data.query_labels),
        (data.gallery_table, data.gallery_labels),
    ):
        assert [data.classes[label] for label in labels] == table.rows["landmark_id"].tolist()
    images, labels, rows = next(iter(data.train_dataloader()))
    assert images.dtype == torch.uint8
    expected = data.train_table.rows["landmark_id"].iloc[rows.numpy()]
    assert [data.classes[label] for label in labels] == expected.tolist()
    assert tuple(images.shape[:0:-1]) in {(*size, 3) for size in FORMAT.sizes}


def test_landmarks_without_training_photos_still_validate(source):
    filtered = Folder(source.read().root, most_frequent=3)
    data = landmark_data(filtered)
    assert data.num_classes == 3
    new = set(data.gallery_labels) - set(range(3))
    assert new == {3, 4, 5}
    same = data.query_labels[:, None] == data.gallery_labels
    query, gallery = (
        table.rows["landmark_id"].to_numpy() for table in (data.query_table, data.gallery_table)
    )
    assert np.array_equal(same, query[:, None] == gallery)


def test_a_single_landmark_cannot_be_trained(source, tmp_path):
    with pytest.raises(UserError, match="fewer than two landmarks"):
        landmark_data(Folder(source.read().root, most_frequent=1))


def test_settings_out_of_range(source):
    for options, match in (({"batch_size": 0}, "batch_size=0"), ({"workers": -1}, "workers=-1")):
        with pytest.raises(UserError, match=f"LandmarkData: {match} is not valid"):
            landmark_data(source, **options)


def test_a_second_setup_reads_nothing(source, monkeypatch):
    data = landmark_data(source)
    table = data.train_table
    monkeypatch.setattr(data, "source", None)
    data.setup("fit")
    assert data.train_table is table


def test_augmentation_does_not_depend_on_the_number_of_workers(source):
    table = source.read("train")
    seen = []
    for workers in (0, 1, 2):
        dataset = PhotoDataset(table, FORMAT, train=True, seed=3)
        batches = EpochBatches(
            Aspect(groups=dataset.groups, labels=dataset.labels, batch_size=4, seed=1)
        )
        loader = DataLoader(
            dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0
        )
        epochs = []
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            epochs.append([(images, rows.tolist()) for images, _, rows in loader])
        seen.append(epochs)
    for epochs in seen[1:]:
        for one, other in zip(epochs, seen[0], strict=True):
            assert [rows for _, rows in one] == [rows for _, rows in other]
            assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))
    dataset = PhotoDataset(table, FORMAT, train=True, seed=3)
    assert not torch.equal(dataset[(0, 5)][0], dataset[(1, 5)][0])
    assert torch.equal(dataset[(0, 5)][0], dataset[5][0])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_is_sharded_across_ranks(source, world_size, monkeypatch):
    data = landmark_data(source)
    seen = [[], []]
    for rank in range(world_size):
        place = (world_size, rank)
        monkeypatch.setattr(LandmarkData, "_replicas_and_rank", lambda _, place=place: place)
        for which, loader in enumerate(data.val_dataloader()):
            table = (data.query_table, data.gallery_table)[which]
            for images, _, rows in loader:
                for image, row in zip(images, rows.tolist(), strict=True):
                    whole = FORMAT.image(table.root / table.rows["path"][row], image.shape[:0:-1])
                    assert torch.equal(image, whole)
                seen[which] += rows.tolist()
    assert [sorted(rows) for rows in seen] == [
        list(range(len(table))) for table in (data.query_table, data.gallery_table)
    ]


def test_datasets_can_be_pickled_for_spawned_workers(source):
    table = source.read("train")
    for dataset in (PhotoDataset(table, FORMAT, train=True), ScaledPhotoDataset(table, FORMAT)):
        sent = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(torch.stack([*sent[3][0]]), torch.stack([*dataset[3][0]]))


def test_test_time_sizes(source):
    data = landmark_data(source, test_format=ImageFormat([[24, 24]]))
    images, _, _ = next(iter(data.val_dataloader()[0]))
    assert tuple(images.shape[2:]) == (24, 24)


def test_scaled_photos(source):
    table = source.read("gallery")
    dataset = ScaledPhotoDataset(table, FORMAT, (0.5, 1.0, 2.0))
    images, row = dataset[np.int64(4)]
    group = int(table.groups(FORMAT)[4])
    assert row == 4
    for scale, image in zip((0.5, 1.0, 2.0), images, strict=True):
        size = FORMAT.scaled_size(group, scale)
        assert tuple(image.shape) == (3, size[1], size[0])
        assert torch.equal(
            image,
            FORMAT.images(
                table.root / table.rows["path"][4], [FORMAT.scaled_size(group, 2.0), size]
            )[1],
        )


class Recorder(pl.LightningModule):
    """Train one parameter and record the sampled photos."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch[2].tolist(), int(batch[0].sum())))
        return self.weight**2

    def validation_step(self, batch, _, dataloader_idx=0):
        self.validated.append((self.current_epoch, dataloader_idx, batch[2].tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(source, folder, workers=0, resume=None):
    shared = {"dirpath": folder, "save_top_k": -1}
    saves = [
        ModelCheckpoint(filename="{step}", every_n_train_steps=1, **shared),
        ModelCheckpoint(filename="validated-{epoch}", every_n_epochs=1, **shared),
    ]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=saves,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=landmark_data(source, workers=workers), ckpt_path=resume)
    return recorder


@pytest.mark.filterwarnings("ignore")
def test_lightning_reshuffles_and_resumes_in_mid_epoch(source, tmp_path):
    workers = 1  # a worker receives the first batches before Lightning sets the epoch
    whole = run(source, tmp_path, workers)
    epochs = [[rows for epoch, rows, _ in whole.seen if epoch == number] for number in (0, 1)]
    for batches in epochs:
        assert {row for rows in batches for row in rows} == set(range(len(source.read("train"))))
    assert epochs[0] != epochs[1]
    length = len(epochs[0])
    for name, done in (("step=3", 3), (f"step={length + 2}", length + 2)):
        resumed = run(source, tmp_path / "again", workers, tmp_path / f"{name}.ckpt")
        assert resumed.seen == whole.seen[done:]
        assert resumed.validated == [seen for seen in whole.validated if seen[0] >= done // length]
    resumed = run(source, tmp_path / "again", workers, tmp_path / "validated-epoch=0.ckpt")
    assert resumed.seen == whole.seen[length:]
    assert {seen[0] for seen in resumed.validated} == {1}
    resumed = run(source, tmp_path / "again", workers, tmp_path / f"step={length}.ckpt")
    assert resumed.seen == whole.seen[length:]
