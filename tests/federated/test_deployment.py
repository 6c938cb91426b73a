"""A deployment on loopback by its own scripts: TLS, owners known by their keys, and strangers kept out."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("flwr")

from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.config import read_config
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.server.run import Server
from tests import warm
from tests.federated.tiny import VEIL, config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]  # where the processes find tests.federated.tiny
SCRIPTS = ROOT / "deploy" / "federated"
PATIENCE = 480.0  # seconds; on idle cores the whole takes a tenth of it
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("ssh-keygen") is None,
    reason="needs openssl and ssh-keygen",
)


@pytest.fixture(autouse=True)
def this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts take the Flower of the Python that runs the tests, activated or not."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def script(name: str, *args: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPTS / f"{name}.sh"), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


class Deployment:
    """Processes in sessions of their own, each with its log, and an end for all of them."""

    def __init__(self, home: Path) -> None:
        self.home, self.started = home, dict[str, subprocess.Popen[bytes]]()

    def start(self, called: str, name: str, *args: object) -> subprocess.Popen[bytes]:
        env = os.environ | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2", "PYTHONPATH": str(ROOT)}
        with (self.home / f"{called}.log").open("wb") as log:
            self.started[called] = subprocess.Popen(
                ["bash", str(SCRIPTS / f"{name}.sh"), *map(str, args)],
                cwd=self.home, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self.started[called]

    def log(self, called: str) -> str:
        return (self.home / f"{called}.log").read_text(errors="replace")

    def until(self, there: Callable[[], bool], what: str, *needed: str) -> None:
        end = time.monotonic() + PATIENCE
        while not there():
            ended = [name for name in needed if self.started[name].poll() is not None]
            if ended or time.monotonic() > end:
                tails = "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.started)
                pytest.fail(f"{what}: {f'{ended} ended' if ended else f'not within {PATIENCE} s'}\n{tails}")
            time.sleep(0.2)

    def survivors(self) -> list[int]:
        """Processes of the groups, and those that name the folder (Flower puts some into sessions of their own)."""
        groups = {process.pid for process in self.started.values()}
        return [
            pid
            for pid, _, group, command in processes()
            if group in groups or str(self.home).encode() in command
        ]

    def kill(self, called: str) -> None:
        """SIGKILL to all that a script has started, at once: nothing of it can clear up after itself."""
        top = self.started[called].pid
        running = processes()
        mine = {top} | {pid for pid, _, group, _ in running if group == top}
        while more := {pid for pid, parent, _, _ in running if parent in mine} - mine:
            mine |= more
        for pid in mine:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.started[called].wait(10)

    def stop(self) -> list[int]:
        """Ask all to end as a user's Ctrl-C or kill does; what is left after 60 s is killed, and returned."""
        for process in self.started.values():
            process.terminate()
        end = time.monotonic() + 60  # beside other work the idle fork servers alone take 10 s to leave
        while self.survivors() and time.monotonic() < end:
            time.sleep(0.2)
            for process in self.started.values():
                process.poll()
        left = self.survivors()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started.values():
            process.wait(10)
        return left


def processes() -> list[tuple[int, int, int, bytes]]:
    """Number, parent, group and command line of all that run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, stat = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
        except OSError:
            continue
        state, parent, group = stat.rpartition(") ")[2].split()[:3]
        if state != "Z":
            found.append((int(entry.name), warm.asked_for_by(int(parent)), int(group), command))
    return found


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def matmul() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
    return port


def answers(port: int, certificate: Path) -> bool:
    """Whether something with a certificate of this authority for 127.0.0.1 listens there."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            ssl.create_default_context(cafile=str(certificate)).wrap_socket(
                plain, server_hostname="127.0.0.1"
            ),
        ):
            return True
    except (ConnectionError, TimeoutError):
        return False


def write_configs(home: Path) -> tuple[Path, list[Path]]:
    """The server's YAML and those of three owners of six different people."""
    common = {
        "partition": "own",
        "model": {"schedule": "one_cycle"},
        "wait": PATIENCE,
        "min_clients": 3,
    }

    def drawn(people: int, first: int) -> dict[str, object]:
        args = {"identities": people, "images_per_identity": 8, "size": 32, "first_identity": first}
        return {"class_path": "datamodules.DrawnFaces", "init_args": args}

    server, owners = home / "server.yaml", [home / f"owner-{number}.yaml" for number in range(3)]
    server.write_text(yaml.safe_dump(config(**common, data={"reader": drawn(2, 90), "desensitizer": VEIL})))
    for number, path in enumerate(owners):
        data = {"reader": drawn(2 + number, 10 * number), "desensitizer": None}
        path.write_text(yaml.safe_dump(config(**common, data=data)))
    return server, owners


@needs_openssl
@pytest.mark.timeout(1800)  # on cores that others use as well
@pytest.mark.usefixtures("matmul")
def test_three_owners_over_tls_killed_in_a_round_end_in_the_weights_of_the_local_engine(
    tmp_path: Path, deployment: Deployment
) -> None:
    """In round 2 one owner and the whole server are killed, and started again."""
    port, keys = free_port(), tmp_path / "federation"
    server, owners = write_configs(tmp_path)
    script("make_certificates", "server", "--address", "127.0.0.2", cwd=tmp_path)
    for number in range(4):  # the last one's key is not brought to the server
        script("make_certificates", "owner", "--number", number, cwd=tmp_path)
    for number in range(3):
        (keys / f"owner-{number}.pub").rename(keys / "owners" / f"owner-{number}.pub")

    deployment.start("server", "start_server", "--host", "127.0.0.1", "--port", port)
    deployment.until(lambda: answers(port, keys / "ca.pem"), "the server listens", "server")
    run = deployment.start("run", "run", "--config", server, "--port", port)
    deployment.until(
        lambda: "owner-2 is registered" in deployment.log("run"), "owners are known", "server", "run"
    )

    def start_owner(called: str, number: int, path: Path, retry: int) -> None:
        deployment.start(
            called, "start_owner", "--number", number, "--config", path, "--retry", retry,
            "--server", f"127.0.0.1:{port}", "--port", free_port(),
        )  # fmt: skip

    for number, path in enumerate(owners):
        start_owner(f"owner-{number}", number, path, 1)
    start_owner("owner-3", 3, owners[0], 0)
    known = ["server", "owner-0", "owner-1", "owner-2"]
    asked = "Receiving: train message"
    deployment.until(lambda: deployment.log("owner-1").count(asked) == 2, "round 2 is on", *known, "run")
    deployment.until(
        lambda: deployment.started["owner-3"].poll() is not None, "the stranger is sent away", *known
    )
    assert "owner 3: no connection to" in deployment.log("owner-3")
    for called in ("owner-1", "server"):
        deployment.kill(called)

    deployment.start("server-again", "start_server", "--host", "127.0.0.1", "--port", port)
    start_owner("owner-1-again", 1, owners[1], 1)
    deployment.until(lambda: answers(port, keys / "ca.pem"), "it listens again", "server-again")
    again = deployment.start("run-again", "run", "--config", server, "--port", port)
    known = ["server-again", "owner-0", "owner-1-again", "owner-2"]
    deployment.until(lambda: again.poll() is not None, "the federation ends", *known)
    assert again.returncode == 0, deployment.log("run-again")[-3000:]
    said = " ".join(deployment.log("run-again").split())  # Flower hands a log on by and by: this one is whole
    assert "goes on after round 1 of 2" in said
    assert "owner 2 joins: 32 images of 4 people" in said
    assert "owner 0: not connected to" in deployment.log("owner-0")
    deployment.until(lambda: run.poll() is not None, "the first log ends")
    assert run.returncode == 1
    assert "the server does not answer any more" in deployment.log("run")
    assert deployment.stop() == []  # a plain kill of the scripts ends all they started

    with (tmp_path / "runs" / "federated" / "rounds.csv").open() as file:
        hashes = [row["hash"] for row in csv.DictReader(file)]
    local = Server(*read_config({"config": str(server)}), tmp_path / "local")
    clients = [
        Client(*read_config({"config": str(path)}), number, tmp_path / "local" / str(number))
        for number, path in enumerate(owners)
    ]
    local.serve(LocalLink(clients))
    assert hashes == [record["hash"] for record in local.rounds]
    assert (keys / "owner-0").is_dir()  # an owner's mask and head, at the owner


@needs_openssl
def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def refused(name: str, *args: object) -> str:
        done = script(name, *args, cwd=tmp_path, check=False)
        assert done.returncode == 1
        line: str = done.stderr.strip()
        assert "\n" not in line
        return line

    assert "--address: give the name or address" in refused("make_certificates", "server")
    assert "first argument: give server or owner" in refused("make_certificates", "both")
    assert "federation/ca.pem is not there: make it with make_certificates.sh" in refused("start_server")
    assert "--port x: give a whole number" in refused("start_server", "--port", "x")
    script("make_certificates", "owner", "--number", 1, cwd=tmp_path)
    assert (tmp_path / "federation" / "owner-1.key").stat().st_mode & 0o077 == 0
    assert "owner-1.key is there already" in refused("make_certificates", "owner", "--number", 1)
    (tmp_path / "federation" / "ca.pem").touch()
    (tmp_path / "mine.yaml").touch()
    given = ("--config", "mine.yaml", "--server")
    assert "--server 10.0.0.1: give HOST:PORT" in refused("start_owner", "--number", 1, *given, "10.0.0.1")
    assert "owner-0.key is not there: make it" in refused("start_owner", "--number", 0, *given, "a:1")
    assert "federation/owners has no .pub" in refused("run", "--config", "mine.yaml")
    assert "there.yaml is not there: copy deploy" in refused("run", "--config", "there.yaml")


FLWR = """#!/usr/bin/env bash
echo "$*" >>calls
case $1 in
  supernode) echo "registered successfully" ;;
  run) echo '{"run-id": "77"}' ;;
  list) echo "{\\"runs\\": [{\\"run-id\\": \\"77\\", \\"status\\": \\"$(cat state)\\"}]}" ;;
esac
"""


def test_run_tells_a_run_that_is_on_from_one_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a `flwr` whose log ends at once, as after Ctrl-C."""
    for name in ("flwr", "flower-supernode"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FLWR)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "federation" / "owners").mkdir(parents=True)
    for name in ("federation/ca.pem", "federation/owners/owner-0.pub", "server.yaml"):
        (tmp_path / name).touch()

    def run(state: str, *args: str) -> tuple[int, str, list[str]]:
        (tmp_path / "state").write_text(state)
        (tmp_path / "calls").write_text("")
        done = script("run", *args, cwd=tmp_path, check=False)
        called = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
        return done.returncode, done.stderr, called

    assert run("running", "--register-only") == (0, "", ["supernode"])
    given = ("--config", "server.yaml")
    code, said, called = run("running", *given)
    assert (code, called) == (130, ["supernode", "run", "log", "list"])
    home = tmp_path / "federation" / "flower"
    assert "run 77 is still running" in said
    assert f"FLWR_HOME={home} flwr log 77 faceveil" in said
    assert f"FLWR_HOME={home} flwr stop 77 faceveil" in said
    code, said, called = run("running", *given)
    assert (code, called) == (1, ["list"])
    assert f"{tmp_path}/runs/federated is being written by run 77, which is still running" in said
    assert "no second one is started" in said
    assert run("running", "--register-only") == (0, "", ["supernode"])
    assert run("pending", *given, "--name", "other")[2] == ["list", "supernode", "run", "log", "list"]
    code, said, _ = run("finished:failed", *given)
    assert code == 1
    assert "run 77 is finished:failed, not completed" in said
    assert run("finished:completed", *given)[:2] == (0, "")
