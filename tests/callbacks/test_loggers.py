"""W&B: what it is told of a run, when it is online, and what a run without it says."""

from __future__ import annotations

import http.server
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.utilities import rank_zero_only

from lightning_app.runs import loggers
from lightning_app.runs.loggers import WandbLogger, place_loggers, reachable
from lightning_app.runs.wandb_privacy import without_places
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel
from tests.callbacks.wandb_server import KEY, lines

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """A server that answers and lets nobody in."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_what_is_printed_stays_here(tmp_path: Path) -> None:
    logger = WandbLogger(offline=True)
    logger.use_run_dir(tmp_path / "run")
    assert logger.experiment.settings.console == "off"
    print("bad image data/Anna Secret/0001.jpg")
    logger.log_metrics({"lfw/accuracy": 0.5}, 1)
    logger.finalize("success")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if path.name == "output.log" or b"Anna Secret" in path.read_bytes()]


def test_the_machine_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/main.py", "fit", "--secret-option", "x"])
    monkeypatch.chdir(tmp_path)
    logger = WandbLogger(offline=True, name="run")
    logger.use_run_dir(tmp_path / "run")
    logger.log_hyperparams(
        {"root": "/secret/folder/faces", "own": str(tmp_path / "data"), "deep": [Path("/secret/x")]}
    )
    logger.log_metrics({"lfw/accuracy": 0.5}, 1)
    told = logger.experiment.settings
    assert (told.host, told.disable_git, told.x_disable_meta, told.save_code) == (
        "private",
        True,
        True,
        False,
    )
    assert dict(logger.experiment.config) == {"root": "faces", "own": "data", "deep": ["x"]}
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    logger.finalize("success")
    (written,) = (tmp_path / "run").rglob("run-*.wandb")
    content = written.read_bytes()
    assert b"lfw/accuracy" in content
    names = [
        str(tmp_path),
        "secret",
        "elsewhere",
        "AMD",
        "Intel",
        "CPython",
        sys.executable,
        os.path.expanduser("~"),
    ]
    # a hostname of a few letters may stand in any file
    names += [socket.gethostname()] if len(socket.gethostname()) > 5 else []
    assert [name for name in names if len(name) > 2 and name.encode() in content] == []
    assert {path.name for path in written.parent.iterdir()} <= {"logs", "files", "tmp", written.name}
    assert not list(written.parent.rglob("requirements.txt")) + list(
        written.parent.rglob("wandb-metadata.json")
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/data/anna/faces", "faces"),
        ("~/faces", "faces"),
        ("../faces", "faces"),
        ("data/lfw", "data/lfw"),
        ("C:\\anna\\faces", "faces"),
        ("--data.root=/data/anna", "--data.root=anna"),
        ("https://host/x", "https://host/x"),
        ("a / b", "a / b"),
        (Path("/data/anna"), "anna"),
        ({"a": [("/x/y", 3, None, True)]}, {"a": [["y", 3, None, True]]}),
    ],
)
def test_paths_are_shortened(value: object, told: object) -> None:
    assert without_places(value) == told


def test_offline_run_is_written_with_one_line(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def no_network(*args: object) -> bool:
        raise AssertionError("without a key the network is not tried")

    monkeypatch.setattr(loggers, "reachable", no_network)
    trainer = make_trainer(logger=WandbLogger())
    place_loggers(trainer)
    trainer.fit(TinyModel({"lfw/accuracy": 0.7}), datamodule=TinyData())
    (line,) = lines(caplog)
    found = re.fullmatch(r"W&B is offline: no key is set \(wandb login\); send .*: wandb sync (\S+)", line)
    assert found
    folder = Path(found[1])
    assert folder.is_relative_to(Path(trainer.default_root_dir) / "wandb")
    (written,) = folder.glob("run-*.wandb")
    deadline = time.perf_counter() + 30  # W&B's service writes the last records in its own time
    while b"lfw/accuracy" not in written.read_bytes():
        assert time.perf_counter() < deadline
        time.sleep(0.1)
    assert wandb.run is None  # ended: nothing is left to block at exit
    out, err = capfd.readouterr()
    assert "wandb:" not in out + err


def test_summary_holds_best_and_last(tmp_path: Path) -> None:
    logger = WandbLogger(offline=True, save_dir=str(tmp_path), name="run")
    for step, value in enumerate((0.5, 0.9, 0.7)):
        logger.log_metrics({"lfw/accuracy": value, "val/loss": value, "lfw/std": value}, step)
    summary = logger.experiment.summary
    assert dict(summary["lfw/accuracy"]) == {"max": 0.9, "last": 0.7}
    assert dict(summary["val/loss"]) == {"min": 0.5, "last": 0.7}
    assert summary["lfw/std"] == 0.7
    assert summary["trainer/global_step"] == 2
    logger.finalize("success")


def test_a_refused_key_ends_offline(
    tmp_path: Path, refusing_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server)
    logger = WandbLogger(save_dir=str(tmp_path), log_model=True, id="asked")
    logger.log_metrics({"val/loss": 1.0}, 0)
    logger.finalize("success")
    refused, unsent = lines(caplog)
    assert "W&B refused (CommError" in refused
    assert "--id asked" in refused
    assert unsent == "W&B is offline: log_model is off, the checkpoints stay in the run folder"
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_closed_port_means_offline_and_quickly(closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    begun = time.perf_counter()
    assert loggers._mode("") == ("offline", f"{closed_port} does not answer within 2 s")
    assert time.perf_counter() - begun < 20  # W&B itself takes 90 s; the machine may be busy


def test_probe(refusing_server: str, closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert reachable(refusing_server)
    assert not reachable(closed_port)
    begun = time.perf_counter()
    assert not reachable("https://no.such.host.invalid", timeout=0.5)
    assert time.perf_counter() - begun < 10
    # where a proxy stands before the server, the proxy is what must answer
    monkeypatch.setenv("https_proxy", refusing_server)
    assert reachable("https://no.such.host.invalid")
    monkeypatch.setenv("https_proxy", closed_port)
    assert not reachable("https://no.such.host.invalid")


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_mode_asked_for_is_respected(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(loggers, "reachable", lambda url: True)
    assert loggers._mode("")[0] == "online"
    assert loggers._mode("offline=true")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", mode)
    assert loggers._mode("")[0] == mode


def test_a_key_in_netrc_counts_for_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine wandb.example\nlogin user\npassword {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert loggers.has_key("https://wandb.example")
    assert not loggers.has_key("https://other.example")


def test_other_ranks_begin_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = WandbLogger()
    logger.log_metrics({"x": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")
    assert logger._experiment is None


def test_run_dir_gives_folder_and_name_unless_the_user_did(tmp_path: Path) -> None:
    logger = WandbLogger()
    logger.use_run_dir(tmp_path / "fsm")
    assert (logger.save_dir, logger._name) == (str(tmp_path / "fsm"), "fsm")
    own = WandbLogger(name="mine", save_dir="there")
    own.use_run_dir(tmp_path / "fsm")
    assert (own.save_dir, own._name) == ("there", "mine")


def test_log_model_offline_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"^WandbLogger: log_model=all needs the network and offline"):
        WandbLogger(offline=True, log_model="all")


@pytest.mark.parametrize(
    ("key", "best"),
    [
        ("lfw/accuracy", "max"),
        ("lfw/accuracy_s3", "max"),
        ("lfw/auc_s2", "max"),
        ("lfw/tar_at_far_1e-2", "max"),
        ("lfw/eer", "min"),
        ("val/loss", "min"),
        ("privacy/dssim", "max"),
        ("privacy/psnr", "min"),
        ("lfw/accuracy_low", None),
        ("lfw/tar_at_far_1e-2_high_s2", None),
        ("lfw/std", None),
        ("run/steps", None),
        ("lr-SGD", None),
    ],
)
def test_best_of_a_figure(key: str, best: str | None) -> None:
    assert loggers._best(key) == best
