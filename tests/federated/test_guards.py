"""What keeps strangers' code out of a deployment: control from the server's host alone, and no bundle at an owner's."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr")

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus
from flwr.superlink import main as superlink_main
from flwr.supernode.runtime import run_clientapp as runtime
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lightning_app.federated.flower import clientapp, superexec
from lightning_app.federated.flower.hooks import replace_in_flower
from lightning_app.federated.flower.superexec import InstalledAppExecutor, use_installed
from lightning_app.federated.flower.superlink import ControlFromHere, middleware
from lightning_app.federated.owner.config import read_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "federated"


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("10.0.0.7", "/v1/fleet/pull-messages", 200),
        ("10.0.0.7", "/v1/control/start-run", 403),
        ("10.0.0.7", "/v1/runtime/pull-task-input", 403),
        ("10.0.0.7", "/v1/fleetx", 403),
        ("10.0.0.7", "//v1/control/start-run", 403),
        ("10.0.0.7", "/docs", 403),
        ("2001:db8::1", "/v1/control/start-run", 403),
        ("unknown", "/v1/control/start-run", 403),
        ("127.0.0.1", "/v1/control/start-run", 200),
        ("::1", "/v1/control/start-run", 200),
        ("::ffff:127.0.0.1", "/v1/control/start-run", 200),
        ("::ffff:10.0.0.7", "/v1/control/start-run", 403),
    ],
)
def test_only_owners_reach_the_server_from_outside(host: str, path: str, status: int) -> None:
    inner = Starlette(
        routes=[Route("/{path:path}", lambda _: PlainTextResponse("reached"), methods=["POST"])]
    )
    with TestClient(ControlFromHere(inner), client=(host, 50000)) as client:
        assert client.post(f"http://testserver{path}").status_code == status


def test_flower_puts_the_guard_outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.superlink.extensions.get_middleware", None, raising=True)
    with pytest.raises(RuntimeError, match="this Flower has no"):
        replace_in_flower("flwr.superlink.extensions", "get_middleware", middleware)
    monkeypatch.undo()
    monkeypatch.setattr("flwr.superlink.extensions.get_middleware", lambda: ())
    replace_in_flower("flwr.superlink.extensions", "get_middleware", middleware)
    outermost: object = superlink_main._get_middleware()[0].cls
    assert outermost is ControlFromHere


@pytest.fixture
def flowers_own() -> Iterator[None]:
    names = ("install_from_fab", "get_load_client_app_fn")
    own = {name: getattr(runtime, name) for name in names}
    yield
    for name, function in own.items():
        setattr(runtime, name, function)


@pytest.mark.usefixtures("flowers_own")
def test_an_owner_unpacks_no_bundle_and_runs_the_installed_app() -> None:
    use_installed()
    names = vars(runtime)
    assert names["install_from_fab"](b"a hostile bundle", skip_prompt=True) is None
    load = names["get_load_client_app_fn"](default_app_ref="", app_path=None, multi_app=True)
    assert load("evil/app", "1.0.0", "0" * 64) is clientapp.app


def spec_of(kind: str) -> ExecutionSpec:
    task: TaskType = kind  # type: ignore[assignment]
    return ExecutionSpec(task, "127.0.0.1:1", "token", True, None, False, None, False, 1)


def test_an_owner_takes_no_other_task() -> None:
    executor = InstalledAppExecutor()
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())
    assert executor.launch(spec_of(TaskType.AGENT_APP)).status is LaunchResultStatus.FAILED


def test_an_owner_answers_one_message_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superexec, "_answer", lambda *_: signal.pause())  # a training that goes on
    executor = InstalledAppExecutor()
    monkeypatch.setattr(executor, "_forks", multiprocessing.get_context("fork"))
    handler = signal.signal(
        signal.SIGTERM, signal.SIG_DFL
    )  # Ray leaves one of its own, which a fork inherits
    assert executor.launch(spec_of(TaskType.CLIENT_APP)).status is LaunchResultStatus.ACCEPTED
    signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
    (training,) = executor._started
    try:
        assert executor.get_eligible_capacity(set(TaskType)) == (set(), set())
        executor.close()
        training.join(20)
    finally:
        training.kill()  # pytest would wait for it
    assert training.exitcode == -signal.SIGTERM
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())


def test_the_shipped_configs_fit_each_other() -> None:
    server, owner = (yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()) for name in ("server", "owner"))
    assert server["model"] == owner["model"]
    assert server["partition"] == owner["partition"] == "own"
    sizes = {side["data"]["init_args"]["reader"]["init_args"]["size"] for side in (server, owner)}
    assert sizes == {112}
    assert owner["data"]["init_args"]["desensitizer"] is None
    assert (owner["min_mask_ratio"], owner["private_heads"]) == (0.5, True)


@pytest.mark.parametrize("side", ["server", "owner"])
def test_the_shipped_configs_are_read(side: str) -> None:
    plan, parts = read_config({"config": str(DEPLOY / f"{side}.yaml")})
    assert plan.heads_stay
    assert parts.model["class_path"] == "lightning_app.models.ResNetFSM"
