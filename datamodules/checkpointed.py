"""What a checkpoint keeps of its data, and what happens where it meets data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from datamodules.readers.base import FaceReader
from datamodules.same_data import (
    BY_NUMBER,
    Split,
    check_classes,
    check_normalised,
    check_pixels,
    check_place,
    knows_held_out,
    refuse_data,
)
from datamodules.same_description import (
    EARLIER,
    alone,
    check_key,
    check_learnt,
    earlier_desensitizers,
    refuse_desensitizer,
    same_desensitizer,
    summary,
)
from datamodules.serving import ServingDataModule

log = logging.getLogger("faceveil")


class CheckpointedDataModule(ServingDataModule):
    """Keep in a checkpoint what data a run has, and compare with what a checkpoint kept.

    Attributes:
        reader: where training images come from.
        seed: seed of order and choice.
        other_data: refuse other data than a checkpoint's, or accept them.
    """

    reader: FaceReader
    seed: int
    other_data: Literal["refuse", "accept"]

    def __init__(self) -> None:
        super().__init__()
        self._split: Split | None = None
        self._met: Mapping[str, Any] | None = None  # what a checkpoint said that was not compared yet
        self._met_classes: list[str] | None = None  # of a checkpoint's task
        self._earlier: list[
            dict[str, Any]
        ] = []  # desensitizers under which the run trained before, oldest first
        self._no_figures = False  # of held-out images: a checkpoint does not know them

    @property
    def num_classes(self) -> int:
        """Classes of the training set, which is looked through for it: people, or those of a task."""
        return len(self.reader.identities)

    @property
    def class_names(self) -> list[str] | None:
        """Names of what is learnt, in the order of their numbers; None where they are people's."""
        if self.reader.classes_are_people:
            return None
        return self.reader.identities if self._met_classes is None else self._met_classes

    def check_split(self, theirs: Mapping[str, Any], who: str) -> None:
        """Refuse data other than those a checkpoint was trained on, or other held-out images than its.

        Held-out images of a checkpoint that drew them by number, as FaceVeil did before, are then drawn so here too.
        Where these data hold none out it does not matter which a checkpoint held out, but in `fit`.

        Args:
            theirs: `split` of a checkpoint, see `state_dict`.
            who: the checkpoint, for messages.

        Raises:
            ValueError: images, identities, their names or order, or the choice of held-out images are others, and
                `other_data` is 'refuse'.
        """
        if self._split is None:
            return
        fitting = self._stage == "fit"
        self._split, found = self._split.meeting(theirs, fitting or self._split.held_out is not None)
        if not found:
            if self._split.version == BY_NUMBER and self._split.held_out is not None:
                log.info(
                    "%s drew its held-out images by number, as FaceVeil did before: so they are here.",
                    who,
                )
            return
        refuse_data(found, who, fitting, self.other_data == "accept")

    @property
    def _stage(self) -> str:
        return str(self.trainer.state.fn.value) if self.trainer and self.trainer.state.fn else ""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: how faces were desensitized, normalised and held out.

        It has no path and no name of a person or an image. `split` tells of images and choice what another run needs to
        know that its own are the same, see `split_facts`; None before they were looked through. `classes` are the names
        of a task's, in the order of their numbers. `earlier_desensitizers` are others that the run had before, oldest
        first; it is there where there were any.
        """
        names = {} if self.class_names is None else {"classes": list(self.class_names)}
        ours = self.desensitizer.describe()
        earlier = [one for one in self._earlier if not same_desensitizer(one, ours)]
        return {
            **names,
            **({EARLIER: earlier} if earlier else {}),
            "desensitizer": ours,
            "num_classes": self.num_classes,
            "split": None if self._split is None else self._split.facts,
            "mean": self.mean,
            "std": self.std,
            "pixels": self.reader.pixel_facts(),
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "batches_done": self._batches_done(),
        }

    def _batches_done(self) -> int:
        """Return how many batches of the epoch under way are done; 0 between two epochs, and outside `fit`."""
        if self.trainer is None or self._stage != "fit":
            return 0
        done = int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        return done if done < self.trainer.num_training_batches else 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare these data with a checkpoint's: refuse what would make its metrics wrong, say what may.

        Raises:
            ValueError: it was trained on pixels normalised otherwise, with another owner's key, or, in `fit`, under
                another masker, or under another desensitizer unless `other_data` is 'accept'; in `fit`, or where images
                are held out, its data were others (see `check_split`), which is found out after the model has looked
                at its weights.
        """
        check_normalised(state_dict, self.mean, self.std)
        theirs, ours = state_dict.get("desensitizer"), self.desensitizer.describe()
        if (
            theirs is not None and self._stage != "fit"
        ):  # of a single image nothing is mixed, whatever the key
            theirs, ours = alone(theirs), alone(ours)
        if theirs is not None:
            check_key(theirs, ours)
            if self._stage == "fit":
                check_learnt(theirs, ours)
        if self._stage == "fit":
            self._earlier = earlier_desensitizers(state_dict)
        if theirs is not None and not same_desensitizer(theirs, ours):
            if self._stage == "fit":
                if self.other_data != "accept":
                    refuse_desensitizer(theirs, ours)
                self._earlier.append(theirs)
            log.warning("The checkpoint was trained on faces desensitized by %s; these are desensitized by %s.",
                        summary(theirs), summary(ours))  # fmt: skip
        self._met = state_dict
        if self.trainer is None:
            self._meet()

    def _meet(self) -> None:
        """Compare these data with those of the checkpoint that was loaded, if one was; once."""
        state, self._met = self._met, None
        if state is None:
            return
        fitting = self._stage == "fit"
        self._meet_classes(state, fitting)
        pixels = state.get("pixels") or {}
        check_pixels(pixels, self.reader.pixel_facts(), fitting, self.other_data == "accept")
        held_out = None if self._split is None else self._split.held_out
        if fitting or held_out is None or knows_held_out(state, self.num_classes):
            if state.get("split") is not None:
                self.check_split(state["split"], "the checkpoint")
        else:
            self._no_figures = True
        if fitting:
            check_place(state, self.state_dict())

    def _meet_classes(self, state: Mapping[str, Any], fitting: bool) -> None:
        """Take a task's classes from a checkpoint; one of another kind has no metrics of these images.

        Raises:
            ValueError: in `fit`, where the classes are others.
        """
        theirs, task = state.get("classes"), not self.reader.classes_are_people
        if fitting and (task or theirs is not None):
            check_classes(theirs, self.reader.identities if task else None)
        elif theirs is not None and task:
            self._met_classes = list(theirs)
        elif "num_classes" in state and task != (theirs is not None):
            log.warning(
                "The checkpoint tells %s apart, these data %s: no loss and accuracy of held-out images.",
                *(("people", "classes of a task") if task else ("classes of a task", "people")),
            )
            self._no_figures = True
