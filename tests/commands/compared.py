"""What the tests of `compare` share: a blur, and a `validate` that takes no time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_app.evaluation import Judge

BLUR = "{class_path: lightning_app.desensitize.GaussianBlur, init_args: {kernel: 9}}"

ANEW = 0.125  # what a recogniser that is verified anew comes to


def verified(fitted: Path, args: Sequence[str]) -> bool:
    """A `validate` that ends well, with a figure of its own."""
    assert args[0] == "validate"
    home = Path(args[args.index("--runs") + 1]) / args[args.index("--name") + 1]
    home.mkdir(parents=True)
    found = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    anew = {"lfw/accuracy": ANEW, "lfw/accuracy_low": ANEW - 0.05, "lfw/accuracy_high": ANEW + 0.05}
    (home / "metrics.json").write_text(json.dumps(found | anew))
    return True


class Pool(Judge):
    """A judge that is no network: what sixteen parts of a face look like."""

    def embed(self, images: Tensor) -> Tensor:
        """Embed faces."""
        return adaptive_avg_pool2d(images, 4).flatten(1) - 0.4
