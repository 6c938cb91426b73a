"""What a checkpoint keeps of its data, and in what other data differ from it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.readers.base import FaceReader
from datamodules.readers.subset import Subset
from datamodules.same_description import same_desensitizer
from datamodules.split import held_out, name_keys
from lightning_app.core.plain import listed

log = logging.getLogger("faceveil")
Facts = dict[str, int | float | str]

BY_NUMBER, BY_NAME = 1, 2  # ways to draw the held-out images: version 1 hashed image numbers, which shift
_SALT = b"faceveil: data of a checkpoint"
_READ = 64  # images whose stored bytes go into the digest
_COST = 2**14  # of scrypt: 16 MiB and some 50 ms for every guess at a whole set


class Split:
    """A set's images dealt to training and validation, which knows a checkpoint's set from another.

    Args:
        whole: the set.
        share: of each identity's images that is held out, see `held_out`.
        seed: of the choice.
        version: how it is drawn, `BY_NAME`, or `BY_NUMBER` as FaceVeil did before.
    """

    def __init__(self, whole: FaceReader, share: float, seed: int, version: int = BY_NAME) -> None:
        self.whole, self.share, self.seed, self.version = whole, share, seed, version
        keys = name_keys(whole.stable_names(), seed) if version == BY_NAME and share > 0 else None
        self.chosen = held_out(whole.labels, share, seed, keys)
        self.matched = False  # whether a checkpoint has been found to be of this very split

    @cached_property
    def training(self) -> FaceReader:
        """The training images."""
        return self.part(~self.chosen) if self.chosen.any() else self.whole

    @cached_property
    def held_out(self) -> FaceReader | None:
        """The held-out images; None where there are none."""
        return self.part(self.chosen) if self.chosen.any() else None

    def part(self, which: Tensor) -> FaceReader:
        """Return the images that are marked in `[N]` bool."""
        return Subset(self.whole, torch.nonzero(which).flatten())

    @cached_property
    def facts(self) -> Facts:
        """Return what a checkpoint keeps; made at the first need, for every name is hashed."""
        return split_facts(self.whole, self.chosen, self.share, self.seed, self.version)

    def meeting(self, theirs: Mapping[str, Any], held: bool) -> tuple[Split, list[str]]:
        """Compare with a checkpoint's split.

        A checkpoint of before version 2 drew by image numbers: its split is then looked for among those drawn so.

        Args:
            theirs: of the checkpoint, see `split_facts`.
            held: whether it matters which images are held out; else only which there are.

        Returns:
            The split to go on with, and in what the checkpoint's differs from it.
        """
        version = theirs.get("version", BY_NUMBER)
        if held and version == BY_NUMBER and self.version == BY_NAME and not self.matched:
            earlier = Split(self.whole, self.share, self.seed, BY_NUMBER)
            found = differences(theirs, earlier.facts)
            earlier.matched = not found
            return (self, found) if found else (earlier, [])
        found = differences(theirs, self.facts, held)
        self.matched |= not found
        return self, found


def split_facts(reader: FaceReader, held: Tensor, share: float, seed: int, version: int) -> Facts:
    """Return what set a run has and which images of it are held out, for its checkpoint.

    Checkpoints travel, and names must not travel with them. So there is one digest of all identities, image names and
    labels together with the stored bytes of 64 images, spread over the set, and it is slow to compute (scrypt): whoever
    wants to test a guess needs every name in its order, those files, and some 50 ms. Nothing is told of a single name.
    Other files under the same names are other data where one of the 64 differs.

    Args:
        reader: the whole set.
        held: `[N]` bool, which are held out.
        share: of each identity's images.
        seed: of the draw.
        version: of the draw.

    Returns:
        `version`, `images`, `identities`, `held_out`, `share`, `seed`, `set` (the digest) and `hash` (of the digest
        and the choice; of version 1, of labels and choice).
    """
    labels = np.ascontiguousarray(reader.labels.numpy()).tobytes()
    whole = hashlib.sha256()
    for name in (*reader.identities, "", *reader.stable_names()):
        whole.update(os.fsencode(name) + b"\0")
    whole.update(labels)
    spread = torch.linspace(0, max(len(held) - 1, 0), min(len(held), _READ), dtype=torch.float64).long()
    for index in spread.unique().tolist():
        whole.update(hashlib.sha256(reader.content(index)).digest())
    digest = _slowed(whole.digest())
    choice = (labels if version == BY_NUMBER else digest) + held.numpy().tobytes()
    return {
        "version": version,
        "images": len(held),
        "identities": len(reader.identities),
        "held_out": int(held.sum()),
        "share": share,
        "seed": seed,
        "set": digest.hex(),
        "hash": hashlib.sha256(choice).hexdigest(),
    }


@lru_cache(maxsize=64)  # a process that trains, verifies and attacks on one set waits once
def _slowed(digest: bytes) -> bytes:
    return hashlib.scrypt(digest, salt=_SALT, n=_COST, r=8, p=1, maxmem=2**26, dklen=32)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], held: bool = True) -> list[str]:
    """Return in what two sets differ; nothing where they are the same.

    Args:
        theirs: of a checkpoint, see `split_facts`; one of before version 2 has only images, held_out and hash.
        ours: of the set at hand.
        held: whether it matters which images are held out; else only which there are.
    """
    words = {"images": "images", "identities": "identities"}
    if held:
        words |= {"share": "data.val_share", "seed": "data.seed", "held_out": "held-out images"}
    if held and not (theirs.get("share", ours["share"]) or ours["share"]):
        del words["seed"]  # nothing is drawn
    found = [
        f"{word} {theirs[key]}, here {ours[key]}"
        for key, word in words.items()
        if key in theirs and theirs[key] != ours[key]
    ]
    if "set" in theirs and theirs["set"] != ours["set"] and theirs["images"] == ours["images"]:
        found.append("names of identities or images, their order, or the files under them")
    if held and not found and theirs.get("hash") != ours["hash"]:
        if theirs.get("version", BY_NUMBER) != ours["version"]:
            found.append("held-out images are drawn by name in one and by number in the other")
        else:
            found.append("which images are held out: data.val_share, data.seed, names or order")
    return found


def refuse_data(found: list[str], who: str, fitting: bool, accept: bool) -> None:
    """Refuse data other than a checkpoint's, or say so.

    Args:
        found: in what they differ; something.
        who: the checkpoint, for messages.
        fitting: a run goes on; else held-out images are measured on.
        accept: only say so.

    Raises:
        ValueError: unless `accept`.
    """
    what = f"{who} was made with other data ({'; '.join(found)})"
    if accept:
        log.warning("%s: metrics of held-out images may be of images it was trained on.", what)
    elif fitting:
        raise ValueError(
            f"{what}: go on with those of its config.yaml, or begin a new run with another --name and without "
            "--ckpt_path (data.other_data: accept goes on all the same)"
        )
    else:
        raise ValueError(
            f"{what}: held-out images may be images it was trained on; give reader, val_share and seed of its "
            "config.yaml, or data.val_share 0 to do without (data.other_data: accept takes them all the same)"
        )


def check_pixels(theirs: Mapping[str, Any], ours: Mapping[str, Any], fitting: bool, accept: bool) -> None:
    """Refuse to go on with a reader of other settings than a checkpoint's, or say so.

    Args:
        theirs: what `FaceReader.pixel_facts` gave for the checkpoint; settings that only one knows do not count.
        ours: what it gives here.
        fitting: a run goes on; else it is only measured, on other images maybe.
        accept: only say so.

    Raises:
        ValueError: in `fit`, unless `accept`.
    """
    both = sorted({*theirs} & {*ours})
    found = [f"reader.{k} {theirs[k]}, here {ours[k]}" for k in both if listed(theirs[k]) != listed(ours[k])]
    if found and fitting and not accept:
        raise ValueError(
            f"the checkpoint was trained on other pixels ({'; '.join(found)}): go on with its config.yaml, or begin a "
            "new run with another --name (data.other_data: accept goes on all the same)"
        )
    if found:
        log.warning("The checkpoint was trained on other pixels (%s).", "; ".join(found))


def check_normalised(state: Mapping[str, Any], mean: float, std: float) -> None:
    """Refuse a checkpoint whose pixels were normalised otherwise, where it tells.

    Args:
        state: what a DataModule's `state_dict` gave.
        mean: subtracted here.
        std: divided by here.

    Raises:
        ValueError: its training had another mean or standard deviation.
    """
    given = (state.get("mean", mean), state.get("std", std))
    if given != (mean, std):
        raise ValueError(
            f"the checkpoint was trained on pixels normalised with mean {given[0]:g} and std {given[1]:g}: give "
            f"data.mean and data.std so, not {mean:g} and {std:g}"
        )


def check_classes(theirs: list[str] | None, ours: list[str] | None) -> None:
    """Refuse to go on with a task's classes where they are others, or in another order.

    Args:
        theirs: names in the order of their numbers, of a checkpoint; None where its classes are people.
        ours: those here, likewise.

    Raises:
        ValueError: they differ.
    """
    if theirs != ours:
        said = ["people" if names is None else ", ".join(names[:8]) for names in (theirs, ours)]
        raise ValueError(
            f"the checkpoint's classes are {said[0]}; here they are {said[1]}: go on with the data of its config.yaml"
        )


def check_place(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on in the midst of an epoch where its rest would not be the images not yet shown.

    Args:
        before: what the DataModule's `state_dict` gave for the checkpoint; an earlier FaceVeil's does not tell.
        now: what it gives here.

    Raises:
        ValueError: batch size, seed or desensitizer are not the checkpoint's.
    """
    done = before.get("batches_done")
    if not done:
        return
    other = [
        f"data.{key} {before[key]}, here {now[key]}"
        for key in ("global_batch_size", "seed")
        if before[key] != now[key]
    ]
    if not same_desensitizer(before["desensitizer"], now["desensitizer"]):
        other.append("data.desensitizer")
    if other:
        raise ValueError(
            f"the checkpoint is in the midst of an epoch, after {done} of its batches, and its settings were others "
            f"({'; '.join(other)}): images would be shown twice or not at all; end the epoch as it began, then change "
            "them"
        )


def knows_held_out(state_dict: Mapping[str, Any], num_classes: int) -> bool:
    """Return whether a checkpoint can be measured on held-out images; where it cannot, say so.

    Args:
        state_dict: what the checkpoint keeps of its data.
        num_classes: identities of the training set here.
    """
    classes = state_dict.get("num_classes")
    if classes is None:  # no head, which the model says
        return True
    if classes != num_classes:
        log.warning(
            "The checkpoint knows %d identities, this set has %d: no loss and accuracy of held-out images.",
            classes, num_classes,
        )  # fmt: skip
        return False
    if state_dict.get("split") is None:
        log.warning(
            "The checkpoint does not tell which images it held out: no loss and accuracy of held-out images."
        )
        return False
    return True
