"""The device of these tests, exact arithmetic on it, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# cuBLAS reads it when it is first used, which may be before a test asks for a deterministic run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes in a test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where their device is not there."""
    mine = [item for item in items if HERE in item.path.parents]
    if not mine:
        return
    there = config.getoption("--gpu-device") != "cuda" or torch.cuda.is_available()
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        # what a library warns of on a GPU is no fault of ours that a test should stop at
        item.add_marker(pytest.mark.filterwarnings("default"))
        if not there:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """The device in question."""
    return torch.device(str(request.config.getoption("--gpu-device")))


@pytest.fixture
def accelerator(gpu: torch.device) -> str:
    """Its name for Lightning."""
    return "gpu" if gpu.type == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """TF32 off, and no process group or deterministic mode left behind."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
