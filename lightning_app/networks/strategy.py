"""The strategy network: from a desensitized batch to the probability of each number of images in a mix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_app.networks.backbones import WIDTH, make_backbone


class StrategyNetwork(nn.Module):
    """A ResNet-18 whose features are averaged over the batch, and a linear layer (the paper, section 3.3).

    Its batch norms keep no running statistics: it is only ever asked about whole batches, and normalises by each.

    Args:
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        choices: how many it chooses among.
        width: channels of the ResNet's first stage, 64 in the paper.

    Raises:
        ValueError: the images are too small for a ResNet-18.
    """

    def __init__(self, in_channels: int, input_size: int, choices: int, width: int = WIDTH) -> None:
        super().__init__()
        backbone = make_backbone("resnet18", in_channels, input_size, width)
        self.backbone = backbone.place_gates((), input_size)
        self.choose = nn.Linear(self.backbone.dim, choices)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[choices]` of one batch.

        The layer is linear, so that the mean of several processes' logits is the logits of their mean features.

        Args:
            image: `[B,C,H,W]`, desensitized and normalised, not mixed.
        """
        features: Tensor = self.backbone(image, None, None)
        logits: Tensor = self.choose(features.float().mean(0))
        return logits.float()


def reinforce_loss(logits: Tensor, choice: int, advantage: float | Tensor, entropy: float = 0.0) -> Tensor:
    """Return what to minimise so that choices with a high reward become likely: −A·log π(choice) − β·H(π).

    Args:
        logits: `[choices]` of the strategy, with their graph.
        choice: what was drawn.
        advantage: A, the reward, or how much it is above what was expected; no gradient goes through it.
        entropy: β, the weight of the entropy in nats, which keeps the strategy from settling early.

    Returns:
        A scalar.

    Source: Williams, "Simple statistical gradient-following algorithms", 1992; the paper's formula 8.
    """
    log_probability = logits.log_softmax(0)
    own_entropy = -(log_probability.exp() * log_probability).sum()
    reward = advantage.detach() if isinstance(advantage, Tensor) else advantage
    return -reward * log_probability[choice] - entropy * own_entropy


def pick(probability: Tensor, at: float) -> int:
    """Draw a choice: the first whose cumulated probability is above a number.

    Args:
        probability: `[choices]` float64 on the CPU, summing to 1.
        at: uniform in [0, 1).
    """
    found = torch.searchsorted(probability.cumsum(0), torch.tensor(at, dtype=torch.float64), right=True)
    return min(int(found), len(probability) - 1)
