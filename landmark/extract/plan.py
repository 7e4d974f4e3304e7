"""What is asked of an extraction, held against what lies at its output already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from landmark.artifact.description import META
from landmark.artifact.descriptors import DescriptorStore
from landmark.disk.atomic import check_can_write
from landmark.disk.differences import as_recorded, check_same_settings, differences
from landmark.error import UserError
from landmark.extract.adding import Addition
from landmark.extract.describe import choose_device
from landmark.extract.extraction import Extraction
from landmark.extract.group import Group
from landmark.model.embedder import Embedder


@dataclass(frozen=True)
class Plan:
    """A store to be made.

    Attributes:
        extraction: what is described and how.
        embedder: its embedder.
        output: where the store belongs.
        dtype: of the stored vectors: float16 or float32.
        settings: what the vectors depend on, as meta.json records it.
        overwrite: a store that is there is replaced, and a stopped extraction begun anew.
        add: a store that is there gets the photos that it lacks.
        devices: processes to start.
    """

    extraction: Extraction
    embedder: Embedder
    output: Path
    dtype: str
    settings: dict[str, Any]
    overwrite: bool = False
    add: bool = False
    devices: int = 1

    @property
    def dim(self) -> int:
        """Dimension of the stored vectors."""
        whitening = self.extraction.whitening
        return self.embedder.embedding_dim if whitening is None else whitening.dim

    @property
    def compared(self) -> dict[str, Any]:
        """What an earlier store or stopped extraction must agree with."""
        return as_recorded({**self.settings, "dtype": self.dtype})

    def there(self) -> DescriptorStore | None:
        """The finished store at `output` that is not to be replaced.

        Raises:
            UserError: something else lies there, or the store was made with other settings.
        """
        if self.overwrite or not (self.output / META).is_file():
            check_can_write(self.output, self.overwrite, marker=META)
            return None
        store = DescriptorStore.open(self.output)
        asked = self.compared
        if self.add:
            del asked["table"]
        advice = "choose another output, or overwrite=true replaces it"
        if differences(store.meta, asked).keys() == {"table"}:
            advice += "; add=true adds the photos that it lacks"
        check_same_settings(store.meta, asked, f"{self.output}: is there already", advice)
        return store

    def nothing_to_do(self) -> str | None:
        """What to say where the store is there with all that is asked for."""
        store = self.there()
        if store is None:
            return None
        if not self.add:
            return f"{self.output}: is there already, made with the same settings"
        if len(Addition.of(self.extraction.table, store).rows):
            return None
        return f"{self.output}: has all these photos already"

    def addition(self) -> Addition | None:
        """The photos to add to the store that is there; None where there is none."""
        store = self.there()
        if store is None:
            return None
        addition = Addition.of(self.extraction.table, store)
        print(f"adds {len(addition.rows):,} photos to the {len(store):,} of {self.output}")
        if addition.gone:
            print(f"{addition.gone:,} photos of it are not in the table: they stay", flush=True)
        return addition

    def check_devices(self, group: Group) -> None:
        """Refuses at once what would fail when the photos are described.

        Raises:
            UserError: more processes than GPUs, or another number than the launcher's.
        """
        if group.size > 1 and self.devices not in (1, group.size):
            raise UserError(
                f"devices={self.devices}: the launcher started {group.size} processes; leave it out"
            )
        device = choose_device(
            self.extraction.device, group.local_rank, max(self.devices, group.local_size)
        )
        gpus = torch.cuda.device_count()
        if device.type == "cuda" and self.devices > gpus:
            raise UserError(f"devices={self.devices}: there are {gpus} GPUs here")
