"""One network out of the checkpoint of another model: an attacker's, a masker's. Nothing in the file is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from lightning_app.runs.checkpoint_bounds import check_claim

# what settings of the wrong kind or size raise, where a network is made of them
_DAMAGED = (RuntimeError, ValueError, TypeError, KeyError, OverflowError, AttributeError)
_Module = TypeVar("_Module", bound=nn.Module)


def weights_under(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, by their names behind it; none where there are none.

    Args:
        checkpoint: as Lightning wrote it.
        prefix: with its dot.
    """
    state = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def of_another(checkpoint: Mapping[str, Any], what: str, wanted: str, config: str) -> ValueError:
    """Return the error that says whose a checkpoint is, which should be of a certain model.

    Args:
        checkpoint: as Lightning wrote it.
        what: to call it.
        wanted: the model, with its article.
        config: with which `fit` writes one, and what else is to say of it.
    """
    saved = checkpoint.get("hyper_parameters") or {}
    kind = str(saved.get("_class_path", "")).rpartition(".")[2] or "another model"
    return ValueError(
        f"{what} is not of {wanted} but of {kind}; give one that `python main.py fit --config {config} wrote"
    )


@contextmanager
def settings_of(path: Path) -> Iterator[None]:
    """Raise in one line, and as a ValueError, what a checkpoint's settings raise that its weights do not fit.

    Args:
        path: as it was given.
    """
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint {path}: its weights do not fit its settings ({reason})") from error


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Check that weights are numbers: of others a network makes something of every image, and nothing that it learnt.

    Args:
        values: by name; whole numbers are left out.

    Raises:
        ValueError: one is NaN or infinite.
    """
    for name, value in values.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite; take an earlier checkpoint")


def rebuilt(make: Callable[[], _Module], state: Mapping[str, Tensor]) -> _Module:
    """Make a network and give it a file's weights: in `eval()`, without gradients, no larger than the file.

    Args:
        make: makes it of the file's settings.
        state: the file's weights.

    Raises:
        ValueError, RuntimeError: they are of another network, or not finite; or what `make` raises.
    """
    check_claim(make, state)
    check_finite(state)
    network = make()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
