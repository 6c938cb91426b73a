"""The server: rounds of training at the owners, what it makes of their updates, and its verification."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger

from lightning_app.core.measurement import seven_digits
from lightning_app.core.progress import progress_bar
from lightning_app.federated.owner.client import model_hash, new_head
from lightning_app.federated.owner.local import quiet
from lightning_app.federated.protocol.aggregate import drifts, refusal
from lightning_app.federated.protocol.bounds import counts, overcounted, overlong
from lightning_app.federated.protocol.messages import (
    Failure,
    Invitation,
    Joined,
    Late,
    Link,
    Task,
    Unreached,
    Update,
    Weights,
    plain,
)
from lightning_app.federated.protocol.partition import deal, partition_table
from lightning_app.federated.protocol.plan import Parts, Plan
from lightning_app.federated.protocol.shared_mask import digest, mask_and_hash
from lightning_app.federated.protocol.weights import count_batches, install, size_of, travelling, weights_hash
from lightning_app.federated.server.record import (
    Record,
    accuracy_key,
    client_key,
    heads_and_rows,
    summary,
    write_rounds,
)
from lightning_app.federated.server.state import history_of, last_round, open_run, write_round
from lightning_app.report import print_table
from lightning_app.report.tables import Scalar
from lightning_app.report.trained import write_trained
from lightning_app.runs.loggers import WandbLogger
from lightning_app.runs.send import send_report

log = logging.getLogger("faceveil")
_BOUNDS = {"client": 10**6, "images": 10**9, "identities": 10**7}  # of an owner's answer to the invitation
_HASH = re.compile(r"[0-9a-z]{0,64}")


class Server:
    """Holds the mask and the global weights; a training image never comes here.

    Args:
        plan: how the federation goes.
        parts: the model, the data (for size, desensitizer and normalisation; its training set is not read) and the
            callbacks that verify.
        run_dir: `runs/<name>`.
        overwrite: replace a run that is there; else one of the same settings is gone on with.

    Raises:
        FileExistsError: the folder holds another kind of run.
        ValueError: it holds a federation with other settings, or the parts do not fit.
    """

    def __init__(self, plan: Plan, parts: Parts, run_dir: Path, overwrite: bool = False) -> None:
        self.plan, self.parts, self.run_dir = plan, parts, run_dir
        self.combine = parts.combiner()
        self.model, self.data = parts.make()
        self.data.val_share = 0.0  # held-out images are the owners'
        mask, self.mask_hash = mask_and_hash(self.data.desensitizer, self.data.size)
        if not self.data.desensitizer.hides:
            log.warning("federate: data.desensitizer hides nothing, the owners train on clean faces.")
        self.watchers = parts.watchers()
        self.dealt = None
        if plan.partition != "own":
            labels = self.data.reader.labels
            self.dealt = partition_table(
                labels, deal(labels, plan.clients, plan.partition, parts.seed, plan.alpha)
            )
        self.run = open_run(run_dir, plan, parts, overwrite)
        self.invitation = Invitation(self.run, plan.rounds, plan.local_epochs, plan.heads_stay, parts.seed, mask,
                                     self.mask_hash)  # fmt: skip
        self.classes: tuple[int, str] | None = None  # of the shared head: how many, and their names' hash
        self.rounds: list[Record] = []
        checkpoint = last_round(run_dir)
        if checkpoint is not None:
            self.rounds = history_of(checkpoint)
            state = checkpoint["state_dict"]
            count = self.model.classes_in(state)
            if count is not None:
                self.model.head = self.model.make_head(count)
                self.classes = count, str(self.rounds[-1]["classes"])
            self.model.load_state_dict(state)
            log.info("federate: goes on after round %d of %d (%s)", len(self.rounds), plan.rounds, run_dir)
        self._images: dict[int, int] = {}  # member → images it joined with
        self._told: set[tuple[int | str, str]] = set()

    def serve(self, link: Link) -> dict[str, Scalar]:
        """Do the rounds that are left, and report.

        Args:
            link: to the clients.

        Returns:
            What `metrics.json` holds.

        Raises:
            ValueError: fewer than `min_clients` owners are left; what is done stays.
        """
        loggers = self.parts.loggers()
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.use_run_dir(self.run_dir)
                logger.use_group(self.run_dir.resolve().name)
        members: set[int] = set()
        with progress_bar() as bar:
            line = bar.add_task(
                self.run_dir.name, total=(self.plan.rounds - len(self.rounds)) * self.plan.clients
            )
            while len(self.rounds) < self.plan.rounds:
                number = len(self.rounds) + 1
                bar.update(line, description=f"round {number} of {self.plan.rounds}")
                self._round(number, link, members, loggers, lambda: bar.advance(line))
        return self._report(loggers)

    def _round(
        self, number: int, link: Link, members: set[int], loggers: Sequence[Logger], tick: Callable[[], None]
    ) -> None:
        begun = time.perf_counter()
        self._invite(link, members, number)
        joined = time.perf_counter()
        task = Task(self.run, number, self.mask_hash, travelling(self.model, self.plan.heads_stay))
        taken, refused, asked = self._collect(task, link, members, tick)
        if len(taken) < self.plan.least:
            self._too_few(number, len(taken), list(refused.values()))
        mean = self.combine(self._counted(number, taken), task.weights)
        record = self._record(task, taken, mean, asked) | refused
        install(self.model, mean, self.plan.heads_stay, "what the strategy made of the owners' weights")
        count_batches(self.model, record["batches"])
        record["time/join_s"] = joined - begun  # in the first round the engine's start as well
        record["time/overhead_s"] = time.perf_counter() - joined - record["time/clients_s"]
        at = time.perf_counter()
        if number % self.plan.verify_every == 0 or number == self.plan.rounds:
            record |= self.verify()
        record |= {"time/verify_s": time.perf_counter() - at, "time/round_s": time.perf_counter() - begun}
        classes = None if self.classes is None else self.classes[0]
        write_round(self.run_dir, self.model, self.data, [*self.rounds, record], classes, self.plan)
        self.rounds.append(record)  # only now: the round is done when its checkpoint is there
        if number < self.plan.rounds:  # the report writes all of them after the last
            write_rounds(self.run_dir, self.rounds)
        accuracy = accuracy_key([record])
        shown = "" if accuracy is None else f"{accuracy} {record[accuracy]:.4f}, "
        log.info("round %d of %d: %s%d owners, %.1f s of training, %.1f s beside it", number, self.plan.rounds,
                 shown, len(taken), record["time/clients_s"], record["time/overhead_s"])  # fmt: skip
        metrics = {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
        for logger in loggers:
            logger.log_metrics(metrics, step=number)

    def _collect(
        self, task: Task, link: Link, members: set[int], tick: Callable[[], None]
    ) -> tuple[list[Update], dict[str, str], int]:
        """Send a task out; give the updates that are taken, by log key why the others are not, and how many were asked.

        Who is left out is no member any more and is invited anew before the next round, as it may have been started
        again with other faces or without its files. Not so who is late: it has the round to do before it reads that.
        """
        taken: list[Update] = []
        refused: dict[str, str] = {}
        due, asked = set(members), len(members)
        for given in link.train(task, set(members)):
            tick()
            if isinstance(given, Failure):
                reason: str | None = given.reason
            elif given.client not in due:
                reason = "nobody asked it, or it has answered already"
            else:
                most = self._images[given.client] * self.plan.local_epochs
                reason = refusal(
                    given, task.weights, task.round, self.mask_hash, most, self.plan.max_update_norm
                )
            if reason is None and isinstance(given, Update):
                due.remove(given.client)
                taken.append(given)
                log.info("round %d of %d, owner %d: loss %.4f, %d images in %.1f s", task.round, self.plan.rounds,
                         given.client, given.loss, given.images, given.seconds)  # fmt: skip
            else:
                said = plain(str(reason))  # names of weights, for one, are the owner's words
                log.warning("round %d, owner %s is left out: %s", task.round, given.client, said)
                refused[client_key(given.client, "refused")] = said
                asked -= isinstance(given, Unreached)
                if not isinstance(given, Late):
                    members -= due & {given.client}
        for client, said in self._out_of_line(taken, task.weights).items():
            log.warning("round %d, owner %d is left out: %s", task.round, client, said)
            refused[client_key(client, "refused")] = said
            taken = [update for update in taken if update.client != client]
            members.discard(client)
        return taken, refused, asked

    def _out_of_line(self, taken: Sequence[Update], reference: Weights) -> dict[int, str]:
        """Return who is left out for what only a look at all updates, or at earlier rounds, shows."""
        plan = self.plan
        long = overlong(taken, reference) if plan.max_update_norm is None else {}
        fair = [update for update in taken if update.client not in long]
        earlier = {
            update.client: max(seen)
            for update in fair
            if (seen := [r[key] for r in self.rounds if (key := client_key(update.client, "images")) in r])
        }
        return long | overcounted(fair, plan.max_images_ratio, earlier)

    def _counted(self, number: int, taken: Sequence[Update]) -> list[Update]:
        """Let no owner count for many times the others' images: the number is its word alone."""
        found = counts(taken, self.plan.max_images_ratio)
        for update in taken:
            if found[update.client] != update.images:
                log.warning(
                    "round %d, owner %d: it says it saw %d images, and counts for %d: max_images_ratio=%g times the "
                    "middle one of the others'", number, update.client, update.images, found[update.client],
                    self.plan.max_images_ratio,
                )  # fmt: skip
        return [replace(update, images=found[update.client]) for update in taken]

    def _record(self, task: Task, taken: Sequence[Update], mean: Weights, asked: int) -> Record:
        far = drifts(task.weights, taken, mean)
        work = [update.seconds for update in taken]
        record: Record = {
            "round": task.round, "clients": len(taken), "images": sum(update.images for update in taken),
            "batches": max(update.batches for update in taken), "hash": weights_hash(mean),
            "bytes_down": size_of(task.weights) * asked,
            "bytes_up": sum(size_of(update.weights) for update in taken),
            # of clients side by side only the longest, or their share of the places, is seen from here
            "time/clients_s": max(max(work), sum(work) / self.plan.places),
            "classes": self.classes[1] if self.classes is not None else "",
        }  # fmt: skip
        for update in sorted(taken, key=lambda update: update.client):
            drift = far[update.client]
            own = {"loss": update.loss, "lr": update.lr, "images": update.images, "seconds": update.seconds,
                   "drift": drift.norm, "cosine": drift.cosine, "norm": drift.norm_with_statistics}  # fmt: skip
            record |= {client_key(update.client, key): value for key, value in own.items()}
        return record

    def _invite(self, link: Link, members: set[int], number: int) -> None:
        """Bring in who is not in, or is in from another place, and build the shared head when its size is known."""
        answers: Iterable[Joined | Failure] = link.newcomers(self.invitation, members)
        if self.classes is None and not self.plan.heads_stay:
            answers = list(answers)
            self._agree(
                [given for given in answers if isinstance(given, Joined) and self._stranger(given) is None]
            )
        joined: set[int] = set()
        for given in answers:
            reason = given.reason if isinstance(given, Failure) else self._unfit(given, joined)
            if isinstance(given, Joined) and given.client not in joined:
                members.discard(given.client)  # what it joined with is true no more
            if reason is None and isinstance(given, Joined):
                joined.add(given.client)
                members.add(given.client)
                self._images[given.client] = given.images
                log.info(
                    "owner %d joins: %d images of %d people", given.client, given.images, given.identities
                )
            elif (given.client, plain(str(reason))) not in self._told:
                self._told.add((given.client, plain(str(reason))))
                log.warning("owner %s cannot join: %s", given.client, plain(str(reason)))
        if len(members) < self.plan.least:
            self._too_few(number, len(members), [reason for _, reason in self._told])

    def _unfit(self, joined: Joined, already: set[int]) -> str | None:
        if joined.client in already:
            return "its number is another owner's"
        strange = self._stranger(joined)
        if strange is not None or self.plan.heads_stay:
            return strange
        if self.classes is None or (joined.identities, joined.classes_hash) != self.classes:
            there = "none" if self.classes is None else str(self.classes[0])
            return (
                f"other classes ({joined.identities}, the federation's {there}, or their names differ): owners of "
                "different people keep their heads (private_heads: true)"
            )
        return None

    def _stranger(self, joined: Joined) -> str | None:
        """Return what of an answer is wrong whatever the others answer."""
        for key, high in _BOUNDS.items():
            low, value = int(key != "client"), getattr(joined, key)
            if not low <= value <= high:
                return f"{key}={value} is not within {low} to {high}"
        if not _HASH.fullmatch(joined.classes_hash):
            return "its classes_hash is no hash"
        if joined.mask_hash != self.mask_hash:
            return (
                f"another mask: its hash is {joined.mask_hash[:12]}…, the federation's {self.mask_hash[:12]}…"
            )
        if joined.model_hash != model_hash(self.model):
            return "another model: give all owners the server's model with all its settings"
        return None

    def _agree(self, joined: Sequence[Joined]) -> None:
        """Take for the shared head the classes of this side's own set, else those that most owners have."""
        if self.dealt is not None:
            names = self.data.reader.identities
            self.classes = len(names), digest(names)
        elif joined:
            first = {one.client: (one.identities, one.classes_hash) for one in reversed(joined)}
            votes = Counter(first.values())
            # of as many votes the fewer classes, whatever the order of answers
            self.classes = min(votes, key=lambda classes: (-votes[classes], classes))
            if self.classes[1] == "":
                log.warning(
                    "federate: the owners share a head of %d people and compare no names: where they are not the same "
                    "people in the same order, nobody notices. Give all owners one names_key.", self.classes[0],
                )  # fmt: skip
        if self.classes is not None:
            self.model.head = new_head(self.model, self.classes[0], self.parts.seed)

    def _too_few(self, number: int, count: int, reasons: Sequence[str]) -> None:
        kept = f"{self.run_dir / 'checkpoints'} has round {number - 1}; " if self.rounds else ""
        raise ValueError(
            f"round {number}: {count} of {self.plan.clients} owners are left, min_clients={self.plan.least} are needed"
            f" ({'; '.join(reasons) or 'none has connected'}): {kept}given again, the command goes on from there"
        )

    def verify(self) -> dict[str, float]:
        """Verify the global model with the callbacks of `trainer.callbacks`.

        Returns:
            Log key → metric.
        """
        if not self.watchers:
            return {}
        options = {
            key: self.parts.trainer[key] for key in ("accelerator", "precision") if key in self.parts.trainer
        }
        with quiet():
            trainer = L.Trainer(
                **options, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=self.run_dir, callbacks=list(self.watchers),
            )  # fmt: skip
            trainer.validate(self.model, datamodule=self.data, verbose=False)
        return {key: seven_digits(value) for key, value in trainer.callback_metrics.items()}

    def _report(self, loggers: Sequence[Logger]) -> dict[str, Scalar]:
        metrics = summary(self.rounds, self.plan.clients, self.plan.local_epochs)
        written = write_trained(self.run_dir, {"run/model": type(self.model).__name__, **metrics})
        heads, rows = heads_and_rows(self.rounds)
        numbers = {key: float(value) for key, value in written.items() if isinstance(value, int | float)}
        picture = write_rounds(self.run_dir, self.rounds)
        send_report(loggers, self.run_dir, "federated", heads, rows, picture, numbers)
        print_table(f"federate: {self.run_dir.name}", rows, heads)
        return written
