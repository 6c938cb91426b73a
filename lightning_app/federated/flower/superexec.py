"""What trains for an owner: Flower's SuperExec that runs the installed app alone, `python -m …federated.superexec`.

Flower sends owners an app bundle with every run and executes what is in it. A server, or whoever got hold of it,
could so read the faces. This SuperExec unpacks no bundle: whatever the server sends, the owner answers with
`lightning_app.federated.flower.clientapp` as it is installed here, and takes no other kind of task.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from typing import Any

from flwr.clientapp import ClientApp
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

from lightning_app.distributed.parent import Bond, bond, end_with_parent
from lightning_app.federated.flower.hooks import replace_in_flower

_APP = "lightning_app.federated.flower.clientapp"
_CLIENT = "flwr.supernode.runtime.run_clientapp"


class InstalledAppExecutor(SubprocessExecutor):
    """Answers each message in a process of its own, forked from one that has imported everything already."""

    def __init__(self) -> None:
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([_APP, _CLIENT])
        self._started: list[BaseProcess] = []

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_: Any
    ) -> tuple[set[TaskType], set[str]]:
        """Ask for messages to the client app, and for nothing else; for none while one is being answered.

        Flower gives a task up whose process was silent for a minute, and hands out the next: an owner whose machine
        was too busy to say a word would train two rounds at once.
        """
        self.reconcile()
        if self._started:
            return set(), set()
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that answers a message.

        Args:
            spec: of the task; its bundle is not looked at.
        """
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(f"an owner runs its client app, and no {spec.task_type}")
        process = self._forks.Process(target=_answer, args=(spec, bond()))
        process.start()
        self._started.append(process)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Clear away processes that have ended."""
        self._started = [process for process in self._started if process.is_alive()]

    def close(self) -> None:
        """End the processes that are left."""
        for process in self._started:
            process.terminate()


def load_installed(*_: Any, **__: Any) -> ClientApp:
    """Return the installed client app, in the place of a bundle's."""
    from lightning_app.federated.flower.clientapp import app

    return app


def use_installed() -> None:
    """Have Flower's client process unpack nothing and load the installed app."""
    replace_in_flower(_CLIENT, "install_from_fab", lambda *_, **__: None)
    replace_in_flower(_CLIENT, "get_load_client_app_fn", lambda *_, **__: load_installed)


def main() -> None:
    """Run `flower-superexec`, guarded, with the command line's arguments."""
    replace_in_flower(
        "flwr.supercore.superexec.run_superexec", "get_executor", lambda *_, **__: InstalledAppExecutor()
    )
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


def _answer(spec: ExecutionSpec, parent: Bond) -> None:
    end_with_parent(parent)  # a training that nobody waits for any more would go on for hours
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    use_installed()
    sys.argv = [_APP]
    run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
