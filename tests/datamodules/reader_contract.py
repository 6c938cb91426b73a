"""What every reader must do; a reader of your own inherits this class in its test and makes itself in `make`."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.readers.base import FaceReader, whole
from datamodules.readers.cached import CachedReader
from datamodules.verification.readers import pairs_of
from lightning_app.core.batch import Batch, learnt


class ReaderContract:
    """Override `make`; pytest runs the rest. A small set will do: two people with two images each.

    Attributes:
        of_a_whole: a part that keeps the classes of its whole, of which it may lack some.
    """

    of_a_whole = False

    def make(self) -> FaceReader:
        """Return a new reader, of the same set each time."""
        raise NotImplementedError

    @pytest.fixture
    def reader(self) -> FaceReader:
        return self.make().open()

    def test_a_batch_is_compact_and_whole(self, reader: FaceReader) -> None:
        order = [len(reader) - 1, 0, 1]
        batch = reader.__getitems__(order)
        if reader.stored is None:  # else it is of a representation, as it was released
            assert (reader.pixel_shape, reader.pixel_dtype) == ((3, reader.size, reader.size), torch.uint8)
        assert batch["image"].dtype == reader.pixel_dtype
        assert batch["image"].shape == (3, *reader.pixel_shape)
        assert batch["image"].float().std() > 0, "its images are blank"
        for key in ("identity", "index", "bad"):
            assert batch[key].dtype == torch.int64
            assert batch[key].ndim == 1
        assert batch["index"].tolist() == [reader.number(i) for i in order]
        at = torch.tensor(order)
        classes, people = learnt(batch)[0], reader.who(at)
        assert torch.equal(classes, reader.labels[at])
        assert torch.equal(batch["identity"], classes if people is None else people)
        task = set() if reader.classes_are_people else {"target"}
        assert set(batch) == {"image", "identity", "index", "bad"} | task

    def test_whose_faces_they_are_and_where_they_lie(self, reader: FaceReader) -> None:
        assert all(path.exists() for path in reader.places())
        assert not (reader.of_nobody and reader.places()), "faces that are read from somewhere are somebody's"
        assert reader.pixel_facts().get("crop", reader.crop) == reader.crop

    def test_images_are_functions_of_their_number(self, reader: FaceReader) -> None:
        """Alone, in a batch, from a second reader and from a cache they are the same, bit for bit."""
        everything = range(len(reader))
        image = reader.__getitems__(everything)["image"]
        assert torch.equal(reader[1]["image"][0], image[1])
        assert torch.equal(self.make().open().__getitems__(everything)["image"], image)
        assert torch.equal(CachedReader(reader, threads=1).__getitems__(everything)["image"], image)
        pixels = torch.from_numpy(reader.read(0).copy())
        assert pixels.shape in {(1, *reader.pixel_shape[1:]), reader.pixel_shape}
        assert torch.equal(pixels.expand(reader.pixel_shape), image[0])

    def test_labels_are_sorted_classes(self, reader: FaceReader) -> None:
        assert len(reader) == len(reader.labels) > 1
        assert reader.labels.dtype == torch.int64
        assert reader.identities == sorted(set(reader.identities))
        known = reader.labels[reader.labels >= 0]
        if reader.identities:
            every = list(range(len(reader.identities)))
            assert known.unique().tolist() == every or (self.of_a_whole and {*known.tolist()} < {*every})
        else:
            assert len(known) == 0, "-1 where nobody knows who it is"

    def test_every_image_has_a_name_of_its_own(self, reader: FaceReader) -> None:
        count = len(reader)
        assert len({reader.name(i) for i in range(count)}) == count
        stable = list(reader.stable_names())
        assert stable == [reader.stable_name(i) for i in range(count)]
        assert len(set(stable)) == count
        assert not [name for name in stable if name.startswith("/")], (
            "a stable name holds a path of this machine"
        )
        assert stable == list(self.make().stable_names())

    def test_says_what_decides_its_pixels(self, reader: FaceReader) -> None:
        facts = reader.pixel_facts()
        assert facts["size"] == reader.size
        assert json.loads(json.dumps(facts)) == json.loads(json.dumps(self.make().pixel_facts()))

    def test_travels_to_workers(self, reader: FaceReader) -> None:
        again = pickle.loads(pickle.dumps(reader))
        assert again.identities == reader.identities
        assert torch.equal(again[0]["image"], reader[0]["image"])
        loader: DataLoader[Batch] = DataLoader(reader, batch_size=2, collate_fn=whole)
        batch = next(iter(loader))
        assert torch.equal(batch["image"], reader.__getitems__([0, 1])["image"])

    def test_its_pairs_are_of_its_images(self, reader: FaceReader) -> None:
        """Of a verification set alone."""
        if reader.pairs is None:
            with pytest.raises(ValueError, match="has no list of pairs"):
                pairs_of(reader)
            return
        pairs = pairs_of(reader)
        assert int(torch.cat([pairs.a, pairs.b]).max()) < len(reader)
        assert len(pairs.folds.unique()) >= 2
