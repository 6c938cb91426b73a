"""The shards of a release of representations: how large they are, which are done, and the manifest of them."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_app.core.files import file_sha256, write_atomically
from lightning_app.core.printing import counted
from lightning_app.release.format.entries import TENSORS
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.signing import fingerprint
from lightning_app.release.format.tensors import MOST_ROWS, PAIRS, Layout, Stored, Tensors, shard_file
from lightning_app.release.write.batch_writer import BatchWriter, of_people
from lightning_app.release.write.pairs import pairs_of_plan
from lightning_app.release.write.shard_work import ShardWork

SHARD_MB = 32  # of 2²⁰ bytes: what a shard has at most
_MIXED_MB, _MIXES = (
    8,
    4,
)  # of a shard that is mixed, which is held as floats; and times k images that it has at least
_SPARE = 1 << 20  # bytes beside the shards: manifest, signature, what the file system takes for itself


def rows_of_a_shard(stored: Stored, mixed: int) -> int:
    """Return how many images a shard has at most.

    Args:
        stored: how their values are stored.
        mixed: of how many images each is mixed; 1 of none.
    """
    room = (SHARD_MB if mixed == 1 else _MIXED_MB) << 20
    return min(MOST_ROWS, max(1, room // stored.row_bytes, _MIXES * mixed if mixed > 1 else 1))


class ShardWriter(BatchWriter):
    """The shards of a release, one after the other."""

    work: ShardWork

    @property
    def clipped(self) -> float:
        """Share of the values released that lay beyond the grid and were cut off; of those made by this call."""
        values = int(np.prod(self.work.represent.stored.shape)) * int(self.channels.astype(bool).sum())
        return self._clipped / values if values else 0.0

    _clipped = 0

    def bytes_of(self, shards: list[int]) -> int:
        """Return how many bytes these shards take if no image is refused."""
        stored, mixed = self.work.represent.stored, self.work.represent.mixed
        return sum(Layout.of(stored, mixed, len(self.work.places(shard))).size for shard in shards)

    def check_room(self) -> int:
        """Return how many bytes are still to be written.

        Raises:
            OSError: the disk has not so much room; nothing was written.
        """
        left = np.flatnonzero(~self.done).tolist()
        if not left:
            return 0
        needed, output = self.bytes_of(left), self.work.output.resolve()
        there = next(folder for folder in (output, *output.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if needed + _SPARE > free:
            raise OSError(
                f"output {self.work.output}: the release takes "
                f"{in_gb(needed)}{'' if len(left) == len(self.done) else ' more'}"
                f" ({self._what()}), {in_gb(free)} are free there: make room, or release less (`channels`, "
                "`stride`, dtype: "
                "uint8, fewer images); nothing was written"
            )
        return needed

    def _what(self) -> str:
        stored = self.work.represent.stored
        return f"{len(self.work.plan):,} images of {'×'.join(map(str, stored.shape))} {stored.dtype}"

    def size_note(self) -> str:
        """Return how large the release will be, before anything is written."""
        whole = self.bytes_of(list(range(len(self.work))))
        return f"The release takes {in_gb(whole)}: {self._what()}, in {counted(len(self.work), 'shard')}."

    def manifest(
        self, facts: dict[str, Any], refused: dict[str, int], guard: int, signer: Ed25519PrivateKey | None
    ) -> Manifest:
        """Write the list of pairs, where there is one, and word the manifest; see `BatchWriter.manifest`."""
        good, work = self.good(refused), self.work
        represent = work.represent
        files: dict[str, str] = {}
        rows: dict[str, int] = {}
        for place in good:
            name = work.plan.file(place)
            files[name] = self.digests[place].tobytes().hex()
            rows[name] = rows.get(name, 0) + 1
        text = pairs_of_plan(work, self.bad)
        listed = text.count("\n")
        if text:
            write_atomically(work.output / PAIRS, text.encode())
            files[PAIRS] = hashlib.sha256(text.encode()).hexdigest()
        stored = represent.stored
        tensors = Tensors(
            stored.dtype, list(stored.shape), stored.scale, stored.offset, batch=work.batch_size, mixed=represent.mixed,
            rows=[rows[name] for name in sorted(rows)], pairs=listed,
        )  # fmt: skip
        people = {work.plan.person(int(work.reader.labels[work.plan.index(place)])) for place in good}
        return Manifest(
            **{"version": TENSORS} | of_people(facts, people) | {"compression": None}, channels=stored.shape[0],
            mask=None, images=len(good), identities=len(people), refused=refused, files=files,
            signer=None if signer is None else fingerprint(signer.public_key()), tensors=tensors,
        )  # fmt: skip

    def _note(self, batch: int, images: list[Any]) -> None:
        super()._note(batch, images)
        self._clipped += sum(done.clipped for done in images)

    def _is_there(self, batch: int) -> bool:
        """Compare a shard with the journal's hash, and its sources with what they were."""
        good = []
        for place in self.work.places(batch):
            if self.work.source(place) != tuple(self.sources[place].tolist()):
                return False
            if self.channels[place]:
                good.append(place)
            elif not self.work.is_refused(place, self.bad[place].reason):
                return False
        path = self.work.output / shard_file(batch)
        if not good:
            return not path.exists()
        if not path.is_file() or path.is_symlink():
            return False
        return file_sha256(path) == bytes(self.digests[good[0]]).hex()


def in_gb(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
