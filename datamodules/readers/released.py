"""A released set: faces that were desensitized where they come from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import OnBadImage, Pixels
from datamodules.readers.decode import Crop, decode, read_bytes
from datamodules.readers.folder import check_counts, select
from datamodules.readers.index import Names
from datamodules.readers.per_person import FilesPerPerson
from datamodules.same_description import alone, but_keys, check_same
from lightning_app.core.batch import Batch
from lightning_app.core.files import given_folder, read_bounded
from lightning_app.core.plain import is_hash
from lightning_app.core.progress import progress_bar
from lightning_app.desensitize import Desensitizer
from lightning_app.masks import load_mask, mask_hash, mask_ratio
from lightning_app.masks.bits import pack_masks
from lightning_app.release.format.each_mask import code_file, mask_file, read_codes, read_mask
from lightning_app.release.format.keyed import WithoutKey
from lightning_app.release.format.manifest import SMALL, Manifest
from lightning_app.release.format.method import desensitizer_of, is_known, key_hashes
from lightning_app.release.format.names import MANIFEST, MASK, SIGNATURE, is_image_file
from lightning_app.release.format.png import most_bytes
from lightning_app.release.format.shard_rows import ShardRows
from lightning_app.release.format.signing import fingerprint, load_public_key, signature_holds
from lightning_app.release.format.tensor_method import tensor_faults
from lightning_app.release.format.tree import walk_release

log = logging.getLogger(__name__)
_THREADS = 16  # hashing waits for the file system
_PART = 1 << 20  # bytes read at a time
_CHUNK = 4096  # files hashed between two looks at the progress bar


class ReleasedFaces(FilesPerPerson):
    """Read what `desensitize` released, with the mask it brings, once it is found to be what its manifest says.

    Of a release of representations images are read row by row from its shards, as they are stored: no more than a
    batch is held, whatever the order. Mixes (`mix_once`) come with their labels and shares.

    Classes are the identities' pseudonyms, sorted, and so are images within each. A `FaceDataModule` neither
    desensitizes these images again nor needs a desensitizer: training batches get the release's mask, or each image's
    own, and clean images to verify on are desensitized as the release was.

    Of a task the classes have their names where the release has them (`classes_are_people` is False then).

    Args:
        root: the released folder, the one with `manifest.json`.
        verify: compare `all` files with the manifest before the first use, byte for byte by their hash, or
            only the `list` of files. Either is done anew in every run.
        public_key: PEM file of the owner's public key; the manifest's signature must hold then.
        min_images: leave out identities with fewer images.
        max_images: take only the first so many images of each identity.
        own_desensitizer: what the images went through, where that was a desensitizer of one's own without a mask;
            or a method with its key file, or with its masker's checkpoint, with which raw images can be verified on.
        on_bad_image: 'error' for an image that cannot be decoded, or 'replace' it by one of its identity.
        mask_hash: hash of the mask that was agreed on, 64 hexadecimal digits; a release under another, or none, is
            refused. By default any is taken.
        min_mask_ratio: share of the pixels, in [0,1], that the release's mask must hide at least; a release without a
            mask is refused then. By default it is not asked for.
        veil: the old name of `own_desensitizer`.

    Raises:
        FileNotFoundError: no such folder, or no manifest in it.
        ValueError: the release is not what its manifest says, its signature does not hold, or its mask is not the one
            that was agreed on.
    """

    _weight: NDArray[np.float32] | None
    _target: NDArray[np.int64]
    _names: NDArray[np.uint8]
    _codes: Tensor
    released = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        verify: Literal["all", "list"] = "all",
        public_key: str | os.PathLike[str] | None = None,
        min_images: int = 1,
        max_images: int | None = None,
        own_desensitizer: Desensitizer | None = None,
        on_bad_image: OnBadImage = "error",
        mask_hash: str | None = None,
        min_mask_ratio: float | None = None,
        veil: Desensitizer | None = None,
    ) -> None:
        check_counts(min_images, max_images)
        self.root, self.verify, self.on_bad_image = given_folder(root), verify, on_bad_image
        self.min_images, self.max_images = min_images, max_images
        self.own_desensitizer = own_desensitizer if own_desensitizer is not None else veil
        self.manifest = Manifest.read(self.root)
        if public_key is not None:
            self._check_signature(Path(public_key))
        self._check_mask(mask_hash, min_mask_ratio)
        self.size = self.manifest.size
        self.classes_are_people = self.manifest.classes is None
        masks = self.manifest.masks
        self.own_masks, self.few_masks = masks is not None, masks is not None and masks.codes > 0
        tensors = self.manifest.tensors
        self.stored = None if tensors is None else tensors.stored
        if self.mixes and (min_images, max_images) != (1, None):
            raise ValueError(
                f"data.reader.init_args: min_images={min_images}, max_images={max_images}: the images of "
                f"{self.root} are "
                "mixes of several people's, none can be left out; leave both out"
            )
        self._rows = None if tensors is None else ShardRows(self.root, self.manifest)
        crop = self.manifest.crop
        # what was cut out of the raw images: verification images are cut likewise
        self.crop: Crop = (crop[0], crop[1], crop[2], crop[3]) if isinstance(crop, list) else crop

    def desensitizer(self) -> Desensitizer:
        """Make what the images went through: of the release's own mask, or as its manifest describes it."""
        name = self.manifest.method["method"]
        # who only mixes, or mixes after a method without a key, does to a single image what needs none
        keyed = bool(key_hashes(alone(self.manifest.method)))
        if self.manifest.tensors is not None and (keyed or not is_known(name)):
            if self.own_desensitizer is None:
                return WithoutKey(self.manifest)
            if is_known(name):
                check_same(WithoutKey(self.manifest), self.own_desensitizer, self.size)
                return self.own_desensitizer
        if self.manifest.masks is not None:
            made = desensitizer_of(self.root, self.manifest)
            check_same(made, self.own_desensitizer, self.size)
            return self.own_desensitizer or made
        if self.own_desensitizer is not None and self.manifest.mask is None:
            self.own_desensitizer.prepare((self.size, self.size))
            theirs, ours = self.manifest.method, self.own_desensitizer.describe()
            # the key may be another one: who has not the owner's draws noise of the same kind from his own
            same = not keyed or but_keys(theirs) == but_keys(ours)
            if ours.get("method") != theirs["method"] or not same:
                raise ValueError(
                    f"data.reader.init_args.own_desensitizer={type(self.own_desensitizer).__name__}: "
                    f"{self.root} was released by "
                    f"{theirs['method']}{'' if same else ', of other settings'}"
                )
            return self.own_desensitizer
        made = desensitizer_of(self.root, self.manifest)
        check_same(made, self.own_desensitizer, self.size)
        return made

    @property
    def mixes(self) -> bool:
        """Whether its images are mixes, made once for all."""
        return self.manifest.tensors is not None and self.manifest.tensors.mixed > 1

    def scan(self) -> None:
        """Compare the folder with its manifest and list its images."""
        tree = walk_release(self.root, self.manifest)
        self._refuse([f"{finding.file} {finding.what}" for finding in tree.findings])
        if self.manifest.tensors is not None:
            self._refuse(tensor_faults(self.manifest))
        if self.verify == "all":
            self._refuse([f"{name}: its SHA-256 is not the manifest's" for name in self._changed()])
        if self._rows is not None:
            self._scan_rows(self._rows)
            return
        files = sorted(name for name in self.manifest.files if is_image_file(name))
        people, names = zip(*(name.split("/")[1:] for name in files), strict=True)
        identities, counts = np.unique(np.array(people), return_counts=True)
        self._files = Names.of(names)
        self.identities, self.labels, self._at = select(
            identities.tolist(), counts, counts > 0, self.min_images, self.max_images, str(self.root)
        )
        self._name_classes()
        if self.few_masks:
            assert self.manifest.masks is not None
            most = most_bytes(self.size)
            codes = read_codes(
                lambda name: read_bounded(self.root / name, most), self.manifest.masks, self.size
            )
            self._codes = pack_masks(codes)
            self._code_of = {
                self.manifest.files[code_file(number)]: number for number in range(self.manifest.masks.codes)
            }

    def _name_classes(self) -> None:
        """Put the names of a task's classes in the place of their pseudonyms, sorted by name."""
        self._folders = self.identities
        self._in = self.labels  # whatever numbers the classes get from elsewhere, files lie where they lie
        if self.manifest.classes is None:
            return
        names = [self.manifest.classes[folder] for folder in self.identities]
        order = sorted(range(len(names)), key=lambda at: names[at])
        place = torch.empty(len(order), dtype=torch.int64)
        place[torch.tensor(order)] = torch.arange(len(order))
        self._folders = [self.identities[at] for at in order]
        self.identities, self.labels = [names[at] for at in order], place[self.labels]
        self._in = self.labels

    def masks(self, indices: Sequence[int]) -> Batch:
        """Return the masks that came with images; those of a codebook are handed on whole, as they were on the fly.

        Raises:
            BadImage: a mask cannot be read.
        """
        if not self.own_masks:
            return {}
        _ = self.labels  # looked through
        names = [mask_file(self._relative(index)) for index in indices]
        if self.few_masks:
            which = [self._code_of[self.manifest.files[name]] for name in names]
            return {"mask_bits": self._codes, "mask_index": torch.tensor(which, dtype=torch.int64)}
        bits = np.stack([self._bits(name) for name in names])
        return {"mask_bits": torch.from_numpy(bits), "mask_index": torch.arange(len(names))}

    def _bits(self, name: str) -> NDArray[np.uint8]:
        try:
            assert self.manifest.masks is not None
            data = read_bounded(self.root / name, most_bytes(self.size))
            return read_mask(data, self.size, self.manifest.masks.shown, name)
        except (OSError, ValueError) as error:
            raise BadImage(f"{self.root}: {error}; see `python main.py audit {self.root}`") from error

    def _folder(self, index: int) -> str:
        """Return the pseudonym of an image's identity or class."""
        _ = self.labels  # looked through
        return self._folders[int(self._in[index])]

    def _relative(self, index: int) -> str:
        return f"images/{self._folder(index)}/{self._files[int(self._at[index])]}"

    def _scan_rows(self, rows: ShardRows) -> None:
        """List the rows of the shards by identity and name, as files are listed."""
        names, identities, self._weight = rows.small()
        own = identities[:, 0]
        order = np.lexsort((*names.T[::-1], *own.T[::-1]))  # by identity, then by name
        people, first, counts = np.unique(own[order], axis=0, return_index=True, return_counts=True)
        del first
        called = [bytes(one).hex() for one in people]
        self.identities, self.labels, at = select(
            called, counts, counts > 0, self.min_images, self.max_images, str(self.root)
        )
        self._at = order[at]
        self._names = names
        self._name_classes()
        if self._weight is not None:
            number = {name: label for label, name in enumerate(self._folders)}
            numbers = [
                number.get(bytes(one).hex(), -1) for one in identities.reshape(-1, identities.shape[-1])
            ]
            self._target = np.array(numbers, np.int64).reshape(identities.shape[:2])
            if (self._target < 0).any():
                self._refuse(["a mix has somebody in it who is on no image"])

    def mixed_labels(self, indices: Sequence[int]) -> Batch:
        """Return labels and shares of mixes, the image's own first; see `FaceReader.mixed_labels`."""
        if not self.mixes:
            return {}
        _ = self.labels  # looked through
        assert self._weight is not None
        at = self._at[list(indices)]
        return {"target": torch.from_numpy(self._target[at]), "weight": torch.from_numpy(self._weight[at])}

    def stable_name(self, index: int) -> str:
        """Return an image's pseudonyms: identity/image."""
        folder = self._folder(index)
        return (
            f"{folder}/{self._files[int(self._at[index])] if self._rows is None else self._image_name(index)}"
        )

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        if self._rows is not None:
            return map(self.stable_name, range(len(self)))
        _ = self.labels
        names = zip(self._in.tolist(), self._files.take(self._at.tolist()), strict=True)
        return (f"{self._folders[label]}/{file}" for label, file in names)

    def content(self, index: int) -> bytes:
        """Return an image as it is stored."""
        return (
            super().content(index) if self._rows is None else self._rows.image(int(self._at[index])).tobytes()
        )

    def file(self, index: int) -> str:
        """Return the path of the file that an image lies in."""
        return super().file(index) if self._rows is None else self._rows.file(int(self._at[index]))

    def _image_name(self, index: int) -> str:
        return bytes(self._names[int(self._at[index])]).hex()

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`; of a representation give it as it is stored."""
        if self._rows is not None:
            try:
                return self._rows.image(int(self._at[index]))
            except OSError as error:
                raise BadImage(str(error)) from error
        path = self.name(index)
        return decode(read_bytes(path, most_bytes(self.size)), None, self.size, path)

    def name(self, index: int) -> str:
        """Return an image's path; of a representation its shard, and its pseudonym."""
        if self._rows is not None:
            return f"{self.file(index)}[{self._image_name(index)}]"
        return os.path.join(self.root, *self._relative(index).split("/"))

    def _check_signature(self, public_key: Path) -> None:
        key = load_public_key(public_key)
        signature = self.root / SIGNATURE
        if self.manifest.signer != fingerprint(key) or not signature.is_file():
            raise ValueError(f"{self.root} is not signed by the owner of {public_key}: refused")
        if not signature_holds(
            (self.root / MANIFEST).read_bytes(),
            read_bounded(signature, SMALL).decode("ascii", "replace"),
            key,
        ):
            raise ValueError(
                f"{signature} does not hold: {MANIFEST} was changed after it was signed; refused"
            )

    def _check_mask(self, agreed: str | None, least: float | None) -> None:
        """Refuse a release under another mask than was agreed on, or under one that hides less."""
        own = "data.reader.init_args"
        if agreed is not None and not is_hash(agreed):
            raise ValueError(
                f"{own}.mask_hash={agreed[:80]!r}: give 64 hexadecimal digits in lower case, as a mask's JSON has them"
            )
        if least is not None and not 0 <= least <= 1:
            raise ValueError(f"{own}.min_mask_ratio={least}: give a share in [0,1]")
        if agreed is None and least is None:
            return
        masks = self.manifest.masks
        if masks is not None and agreed is None:
            ratio = 1 - masks.shown / self.manifest.size**2
            if least is not None and ratio < least:
                raise ValueError(
                    f"{self.root}: its masks hide {ratio:.4f} of the pixels, less than {own}.min_mask_ratio={least}; "
                    "get a release under masks that hide more"
                )
            return
        if self.manifest.mask is None:
            asked = "min_mask_ratio" if agreed is None else "mask_hash"
            raise ValueError(
                f"{self.root} has no mask, and {own}.{asked} asks for one; get a release under the mask agreed on"
            )
        mask = load_mask(
            self.root / MASK, self.manifest.size
        )  # what is there, whatever the manifest says of it
        if agreed not in (None, mask_hash(mask)):
            raise ValueError(
                f"{self.root / MASK} is not the mask that was agreed on ({own}.mask_hash={agreed}): its hash is "
                f"{mask_hash(mask)}"
            )
        if least is not None and mask_ratio(mask) < least:
            raise ValueError(
                f"{self.root / MASK} hides {mask_ratio(mask):.4f} of the pixels, less than "
                f"{own}.min_mask_ratio={least}; get a release under a mask that hides more"
            )

    def _refuse(self, faults: list[str]) -> None:
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise ValueError(
                f"{self.root} is not what its manifest says: {'; '.join(faults[:3])}{more}; see "
                f"`python main.py audit {self.root}`"
            )

    def _changed(self) -> list[str]:
        """Hash every file: the names of those that differ."""
        names = sorted(self.manifest.files)
        changed: list[str] = []
        with progress_bar(transient=True) as progress, ThreadPoolExecutor(_THREADS) as pool:
            task = progress.add_task(f"Comparing {self.root} with its manifest", total=len(names))
            for start in range(0, len(names), _CHUNK):
                part = names[start : start + _CHUNK]
                hashes = pool.map(self._hash, part)
                changed += [
                    n for n, digest in zip(part, hashes, strict=True) if digest != self.manifest.files[n]
                ]
                progress.advance(task, len(part))
        log.info("%s: %d files compared with the manifest, %d differ.", self.root, len(names), len(changed))
        return changed

    def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        with open(self.root / name, "rb") as file:
            while part := file.read(_PART):  # a shard is large, and so many are hashed at a time
                digest.update(part)
        return digest.hexdigest()
