from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.utilities import rank_zero_only

from lightning_app import loggers
from lightning_app.loggers import WandbLogger, place_loggers, reachable
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel

KEY = "a" * 40
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


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "W&B" in record.message]


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


@pytest.mark.parametrize("error", [wandb.Error("no"), ConnectionResetError("Connection lost")])
def test_trouble_in_mid_run_is_said_once_counted_and_survived(
    error: Exception, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        id, config = "x", {"a": 1}

        def fail(self, *args: Any, **kwargs: Any) -> None:
            raise error

        log = define_metric = finish = fail

    logger = WandbLogger()
    logger._experiment = Gone()  # type: ignore[assignment]
    trainer = make_trainer(logger=logger)
    trainer.fit(TinyModel(), datamodule=TinyData())
    assert trainer.global_step == 6
    first, *last = lines(caplog)
    assert first == f"W&B does not answer ({type(error).__name__}: {error}); training goes on without it"
    (count,) = last
    found = re.match(r"W&B lost (\d+) calls", count)
    assert found
    assert int(found[1]) > 6  # every step, every validation, the end


def test_other_errors_are_not_swallowed() -> None:
    logger = WandbLogger()
    logger._experiment = object()  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="log"):
        logger.log_metrics({"x": 1.0}, 0)


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
