"""Single rows of a release's shards, read where they lie: the set is never held, whatever the order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.tensors import Layout

_OPEN = 256  # files held open at a time


class ShardRows:
    """The images of a release of representations.

    A row is one stretch of its file, read by one call: a shuffled order costs a seek each, and no more bytes. Processes
    that are forked or sent a copy open the files themselves.

    Args:
        root: of the release.
        manifest: its own, with tensors.

    Raises:
        ValueError: a shard's header or length is not what the manifest makes of it.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        tensors = manifest.tensors
        assert tensors is not None
        self._root, self.stored, self._mixed = str(root), tensors.stored, tensors.mixed
        self._names, self._rows = manifest.shards, tensors.rows
        self._ends = np.cumsum(tensors.rows)
        self._layouts = {rows: Layout.of(self.stored, tensors.mixed, rows) for rows in set(tensors.rows)}
        self._files: dict[int, int] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def small(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32] | None]:
        """Read all but the images: names `[N,10]`, identities `[N,k,10]`, shares `[N,k]` or None.

        Raises:
            ValueError: a shard's header or length is not what the manifest makes of it.
        """
        found: dict[str, list[NDArray[Any]]] = {}
        for name, rows in zip(self._names, self._rows, strict=True):
            layout, path = self._layouts[rows], os.path.join(self._root, name)
            data = b""
            if os.path.getsize(path) == layout.size:
                with open(path, "rb") as file:
                    data = file.read(layout.parts["image"].start)
            if not data.startswith(layout.head):
                raise ValueError(
                    f"{path} is not what its manifest says; see `python main.py audit {self._root}`"
                )
            for part in layout.parts.keys() - {"image"}:
                found.setdefault(part, []).append(layout.view(data, part))
        whole = {part: np.concatenate(arrays) for part, arrays in found.items()}
        return whole["name"], whole["identity"], whole.get("weight")

    def shard(self, row: int) -> int:
        """Return in which shard a row lies."""
        return int(np.searchsorted(self._ends, row, side="right"))

    def file(self, row: int) -> str:
        """Return the path of that shard."""
        return os.path.join(self._root, self._names[self.shard(row)])

    def image(self, row: int) -> NDArray[Any]:
        """Read an image as it is stored, `[C,h,w]`.

        Args:
            row: of the whole release.

        Raises:
            OSError: it cannot be read, or the file is cut off.
        """
        shard = self.shard(row)
        each = self.stored.row_bytes
        rows = self._rows[shard]
        at = self._layouts[rows].parts["image"].start + (row - (int(self._ends[shard]) - rows)) * each
        data = os.pread(self._open(shard), each, at)
        if len(data) < each:
            raise OSError(f"{self.file(row)}: is cut off")
        return np.frombuffer(data, np.dtype(self.stored.dtype).newbyteorder("<")).reshape(self.stored.shape)

    def _open(self, shard: int) -> int:
        if self._process != os.getpid():  # a fork's numbers are its parent's too, which may close them
            self._files, self._process = {}, os.getpid()
        handle = self._files.get(shard)
        if handle is None:
            while len(self._files) >= _OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            handle = self._files[shard] = os.open(os.path.join(self._root, self._names[shard]), os.O_RDONLY)
        return handle

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        """Close what this process has opened."""
        if getattr(self, "_process", None) == os.getpid():
            for handle in self._files.values():
                os.close(handle)
