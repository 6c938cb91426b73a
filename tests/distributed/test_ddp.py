"""Several ranks: the same figures as one process, and one that fails ends all. On gloo, two cores are enough."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_app.cli.configs import CONFIGS
from lightning_app.core.key_file import make_key
from tests import ddp_ranks
from tests.command_line import RunMain, refused
from tests.processes import pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PATIENCE_S = 280  # on busy cores; a rank that sleeps does so for 600

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = CONFIGS / "overlays"
FAILING = ["-m", "tests.failing_rank"]  # not by its path: beside it lie tests/datamodules
Found = dict[str, Any]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[Found]]]:
    """By number of ranks: the folder they wrote in, and what each found."""
    found = {}
    with pool(3) as processes:
        for world in (2, 3):
            folder, port = tmp_path_factory.mktemp(f"ranks{world}"), free_port()
            make_key(folder / "owner.key")
            jobs = [processes.submit(ddp_ranks.rank_of, world, rank, port, folder) for rank in range(world)]
            found[world] = folder, [job.result(timeout=PATIENCE_S) for job in jobs]
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process finds with the same weights."""
    folder = tmp_path_factory.mktemp("one")
    found: Found = ddp_ranks.measured(folder, 1, ddp_ranks.model())
    found["few held out"] = ddp_ranks.measured(folder, 1, ddp_ranks.model(), people=2)["figures"]
    return found


@pytest.mark.parametrize("world", [2, 3])
class TestRanks:
    def test_figures_equal_those_of_one_process(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]], one: Found
    ) -> None:
        for rank in ranks[world][1]:
            for what in ("figures", "few held out"):
                assert set(rank[what]) == set(one[what])
                for key, value in one[what].items():
                    near = 1e-6 if "accuracy" in key else 1e-5
                    assert rank[what][key] == pytest.approx(value, rel=near, abs=near), (what, key)
        assert {"lfw/accuracy", "lfw/auc_s3", "two/accuracy", "privacy/dssim", "val/loss"} <= set(
            one["figures"]
        )

    def test_embeddings_equal_those_of_one_process(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]], one: Found
    ) -> None:
        for rank in ranks[world][1]:
            for name, values in one["embeddings"].items():
                assert len(values) == int(name.split()[1])
                torch.testing.assert_close(
                    torch.tensor(rank["embeddings"][name]), torch.tensor(values), atol=1e-5, rtol=1e-5
                )

    def test_every_rank_embeds_its_share_without_a_word_to_the_others(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]], one: Found
    ) -> None:
        assert one["cost"] == {"collectives": [0, 0], "images": [2 * 13] * 2}  # clean and desensitized
        for number, rank in enumerate(ranks[world][1]):
            several, single = rank["cost"]["collectives"]
            assert several == single > 0  # seven batches or one: only at the end
            assert rank["cost"]["images"] == [2 * len(range(number, 13, world))] * 2

    def test_fit_with_uneven_validation_verifies_the_weights_it_keeps(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        folder, found = ranks[world]
        assert all(rank["fit"]["lfw/auc"] == found[0]["fit"]["lfw/auc"] for rank in found)
        network = ddp_ranks.model()
        network.load_state_dict(torch.load(folder / "trained.pt", weights_only=True))
        again = ddp_ranks.measured(folder, 1, network)["figures"]
        assert again["val/loss"] < 4, (
            "it diverged: chance is log 7, and of a large loss fp32 keeps few decimals"
        )
        for key in ("lfw/accuracy", "lfw/auc", "lfw/eer", "lfw/accuracy_s3", "val/loss", "val/accuracy"):
            assert found[0]["fit"][key] == pytest.approx(again[key], rel=1e-5, abs=1e-5), key

    def test_ranks_that_mix_take_the_steps_of_one_process_given_the_same_mixes(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        parts = [torch.load(ranks[world][0] / f"mixes-{r}.pt", weights_only=True) for r in range(world)]
        for part in parts[1:]:
            assert all(torch.equal(part["trained"][key], one) for key, one in parts[0]["trained"].items())
        network = ddp_ranks.plain_model()
        assert len(parts[0]["steps"]) == 28 // 6
        for several in zip(*(part["steps"] for part in parts), strict=True):
            seen = torch.cat([step["batch"]["index"] for step in several])
            assert len(seen.unique()) == 6, "each rank mixes images of its own"
            batch = {key: torch.cat([step["batch"][key] for step in several]) for key in several[0]["batch"]}
            assert batch["weight"].shape == (6, 2)
            assert bool((batch["weight"] < 1).all())
            network.load_state_dict(several[0]["weights"])
            network.zero_grad()
            network.head(network.embed(batch["image"]), batch["target"], batch["weight"])[0].backward()
            alone = {name: one.grad for name, one in network.named_parameters()}
            for step in several:
                assert step["gradients"].keys() == alone.keys()
                for name, grad in step["gradients"].items():
                    torch.testing.assert_close(grad, alone[name], rtol=1e-4, atol=1e-6)

    def test_ranks_that_mix_frequencies_under_a_margin_hold_equal_weights(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        each = [found["mixed frequencies"] for found in ranks[world][1]]
        assert len({one["trained"] for one in each} | {one["before"] for one in each}) == 2, (
            "one, and not as begun"
        )
        assert each[0]["shapes"] == [[4, 63, ddp_ranks.SIZE, ddp_ranks.SIZE, 4, 2]] * (56 // (4 * world))
        for one in each:
            assert one["shapes"] == each[0]["shapes"]
            assert all(math.isfinite(loss) for loss in one["losses"])
        for batches in zip(*(one["index"] for one in each), strict=True):
            assert len(set().union(*batches)) == 4 * world, "each rank has images of its own"
        assert len({tuple(one["losses"]) for one in each}) == world, "hence another loss"

    @pytest.mark.parametrize("count", [13, 2])
    def test_predict_deals_every_image_once(
        self, world: int, count: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        shares = [rank[f"predict {count}"] for rank in ranks[world][1]]
        assert sorted(i for share in shares for i in share["index"]) == list(range(count))
        assert [len(share["embedding"]) for share in shares] == [
            len(range(r, count, world)) for r in range(world)
        ]

    def test_ranks_with_other_data_are_refused_on_every_rank(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        for rank in ranks[world][1]:
            line = rank["another set"]
            assert "the ranks do not have the same training set and desensitizer (rank 0: images 56" in line
            assert f"rank {world - 1}: images 63" in line
            assert "rank 1" not in line or world == 2
            assert "identities" not in line  # they are the same
            assert "rank 0: order a; rank 1: order b" in rank["another list"]

    def test_a_global_batch_that_cannot_be_dealt_is_refused_in_setup(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        for rank in ranks[world][1]:
            assert (
                f"data.global_batch_size=7 on {world} ranks: every rank takes an equal share"
                in rank["undealt"]
            )

    def test_bad_images_are_counted_over_all_ranks(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        for rank in ranks[world][1]:
            assert "2 of 150 images cannot be decoded, more than 1%" in rank["bad images"]

    def test_ranks_that_learn_to_mix_draw_the_same_and_hold_the_same(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        first, *others = (found["learns to mix"] for found in ranks[world][1])
        assert all(one == first for one in others), "weights, strategy and every k"
        assert len(first["k"]) == 56 // (4 * world)
        assert set(first["k"]) <= {2, 3, 4}

    def test_a_strategy_learns_of_all_ranks_images_what_one_process_would(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        expected = ddp_ranks.strategy_of(0, 1)
        for found in ranks[world][1]:
            for name, values in expected.items():
                assert found["strategy"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name

    def test_buffers_are_those_of_rank_0(
        self, world: int, ranks: dict[int, tuple[Path, list[Found]]]
    ) -> None:
        assert [rank["buffers"] for rank in ranks[world][1]] == [[1.0]] * world


def config_on(root: Path, folder: Path) -> Path:
    """A `fit` of 4 steps on the drawn tree, with random masks, augmentation and verification."""
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "callbacks": [
            {"class_path": "callbacks.LFWVerification", "init_args": {"root": str(root), "bootstrap": 0}}]},
        "model": {"class_path": "lightning_app.models.ResNetFSM",
                  "init_args": {"backbone": "resnet18", "width": 8, "insertion_points": ["layer2"], "lr": 1e-3}},
        "data": {"class_path": "datamodules.FaceDataModule", "init_args": {
            "global_batch_size": 12, "val_share": 0.0,
            "reader": {"class_path": "datamodules.FolderFaces", "init_args": {"root": str(root), "size": 32}},
            "desensitizer": {"class_path": "lightning_app.desensitize.MaskOut",
                             "init_args": {"freeform": [0.5, 0.8], "count": 7}}}},
    }  # fmt: skip
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Started:
    """A command in a process group of its own."""

    def __init__(self, folder: Path, *command: str, **more: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
        environment["XDG_CACHE_HOME"] = str(folder / "cache")
        for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ended(self, timeout: float = PATIENCE_S) -> tuple[int, str]:
        """Wait: exit code and output. Nothing of it may be left; what is gets killed and fails the test."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
            until = time.monotonic() + 10
            while self.is_left() and time.monotonic() < until:
                time.sleep(0.2)
            assert not self.is_left(), f"processes are left over: {output}"
            return self.process.returncode, output
        finally:
            if self.is_left():
                os.killpg(self.process.pid, signal.SIGKILL)

    def is_left(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


def nodes(folder: Path, script: list[str], config: Path, name: str, **more: str) -> list[Started]:
    """Start two launchers that meet on loopback, as on two nodes."""
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d",
              "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--local_addr", "127.0.0.1"]  # fmt: skip
    fit = ["fit", "--config", str(config), "--config", "overlays/ddp_2node_torchrun.yaml", "--name", name,
           "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"]  # fmt: skip
    return [Started(folder, *launch, *script, *fit, **more) for _ in range(2)]


def test_two_nodes_train_the_weights_of_two_processes(drawn_root: Path, tmp_path: Path) -> None:
    config = config_on(drawn_root, tmp_path)
    here = Started(
        tmp_path, str(ROOT / "main.py"), "fit", "--config", str(config), "--config", "overlays/cpu_ddp_2.yaml",
        "--name", "here", "--trainer.precision", "32-true",
    )  # fmt: skip
    code, output = here.ended()
    assert code == 0, output
    for node in nodes(tmp_path, [str(ROOT / "main.py")], config, "there"):
        code, output = node.ended()
        assert code == 0, output
    states = [
        torch.load(tmp_path / "runs" / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("here", "there")
    ]
    assert [state["global_step"] for state in states] == [4, 4]
    one, two = (state["state_dict"] for state in states)
    assert set(one) == set(two)
    differ = [key for key in one if not torch.equal(one[key], two[key])]
    assert not differ
    metrics = [(tmp_path / "runs" / name / "metrics.json").read_text() for name in ("here", "there")]
    assert len({re.findall(r'"lfw/accuracy": ([\d.]+)', text)[0] for text in metrics}) == 1


@pytest.mark.parametrize(("failing", "others"), [(1, "wait"), (0, "sleep")])
def test_a_rank_that_fails_ends_all_with_its_message(
    failing: int, others: str, drawn_root: Path, tmp_path: Path
) -> None:
    config = config_on(drawn_root, tmp_path)
    started = Started(
        tmp_path, *FAILING, "fit", "--config", str(config), "--config",
        "overlays/cpu_ddp_2.yaml", "--trainer.precision", "32-true", FAILING_RANK=str(failing), OTHERS=others,
    )  # fmt: skip
    code, output = started.ended()
    assert code != 0
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert any(re.search(r"\.jpg: cannot be decoded$|\.png: cannot be decoded$", line) for line in said), (
        output
    )
    assert any(line.startswith(f"error: rank {failing} failed: ") for line in said) or failing == 0, output
    assert "Traceback" not in output


def test_a_node_that_fails_ends_the_other_which_waits_for_nothing(drawn_root: Path, tmp_path: Path) -> None:
    config = config_on(drawn_root, tmp_path)
    both = nodes(tmp_path, FAILING, config, "fails", FAILING_RANK="1", OTHERS="sleep")
    outputs = []
    for node in both:
        code, output = node.ended()
        assert code != 0
        assert re.search(r"^error: rank 1( failed)?: .*cannot be decoded$", output, re.M), output
        outputs.append(output)
    assert sum("error: rank 1 failed: " in output for output in outputs) == 1


def test_sync_batchnorm_on_the_cpu_is_refused_at_the_start(
    run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(
        capsys,
        lambda: run_main("fit", "--config", "demo.yaml", "--config", "overlays/cpu_ddp_2.yaml",
                     "--trainer.sync_batchnorm", "true"),
    )  # fmt: skip
    assert "trainer.sync_batchnorm: true needs GPUs" in line
    assert "--trainer.sync_batchnorm false" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "nodes", "devices"),
    [("ddp_4gpu", 1, 4), ("ddp_2node_torchrun", 2, 4), ("ddp_2node_slurm", 2, 4), ("cpu_ddp_2", 1, 2)],
)
def test_an_overlay_says_how_it_is_started_and_scales_nothing(name: str, nodes: int, devices: int) -> None:
    text = (OVERLAYS / f"{name}.yaml").read_text()
    overlay = yaml.safe_load(text)
    assert set(overlay) == {"trainer"}  # neither the batch nor the learning rate
    assert (overlay["trainer"]["num_nodes"], overlay["trainer"]["devices"]) == (nodes, devices)
    head = text[: text.index("\ntrainer:")]
    assert f"overlays/{name}" in head
    assert "global_batch_size is over" in head
    assert "learning rate" in head
    assert ("16-mixed" in head) == ("gpu" in overlay["trainer"]["accelerator"])


SRUN = """#!/bin/bash
printf '%s\\n' "$*" >> srun.log
exit ${SRUN_CODE}
"""


@pytest.mark.parametrize(
    ("code", "before", "restarts", "option", "requeued"),
    [
        (138, None, 0, "", True),
        (138, "last.ckpt", 0, "--ckpt_path last", True),
        (143, "last.ckpt", 1, "--ckpt_path last", False),  # SLURM itself requeues what it preempts
        (1, None, 1, "--overwrite", False),
        (0, "last.ckpt", 3, "--ckpt_path last", False),
    ],
)
def test_the_batch_file_goes_on_and_requeues_itself(
    code: int, before: str | None, restarts: int, option: str, requeued: bool, tmp_path: Path
) -> None:
    for given in ((), ("--overwrite",)):  # which is for the first start alone
        folder = tmp_path / f"given{len(given)}"
        folder.mkdir()
        _batch(
            code,
            before,
            restarts,
            "--overwrite" if given and not restarts else option,
            requeued,
            given,
            folder,
        )


def _batch(
    code: int,
    before: str | None,
    restarts: int,
    option: str,
    requeued: bool,
    given: tuple[str, ...],
    tmp_path: Path,
) -> None:
    batch = OVERLAYS / "ddp_2node_slurm.sbatch"
    subprocess.run(["bash", "-n", str(batch)], check=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", '#!/bin/bash\necho "$@" > scontrol.log\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    if before is not None:
        (tmp_path / "runs/mine/checkpoints").mkdir(parents=True)
        (tmp_path / "runs/mine/checkpoints" / before).touch()
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SRUN_CODE": str(code), "SLURM_JOB_ID": "4711",
                   "SLURM_RESTART_COUNT": str(restarts)}  # fmt: skip
    done = subprocess.run(
        ["bash", str(batch), "fsm_layer3.yaml", "mine", *given, "--seed_everything", "3"],
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == code
    ran = (tmp_path / "srun.log").read_text()
    wanted = (
        "fit --config fsm_layer3.yaml --config overlays/ddp_2node_slurm.yaml --name mine --seed_everything 3"
    )
    assert ran.strip().endswith(f"{wanted} {option}".strip())
    assert (tmp_path / "scontrol.log").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
