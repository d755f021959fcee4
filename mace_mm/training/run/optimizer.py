"""Optimizer and learning-rate schedule."""

import math

import torch
from torch import nn

from mace_mm.errors import ConfigError
from mace_mm.training.config import OptimizerConfig, ScheduleConfig
from mace_mm.training.run.soap import SOAP

# Weight decay acts on what mixes channels: the linear maps after the convolution, the
# element-dependent skips, contraction weights and their linear maps. Not on embeddings, radial
# networks and readouts, whose scale carries the physics.
_DECAYED = (".interaction.linear.", ".interaction.skip.", ".product.")


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that learn, decayed ones in the first group."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if any(part in name for part in _DECAYED) else rest).append(parameter)
    if not decayed and not rest:
        raise ConfigError("nothing is left to learn: every part of the model is frozen")
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    if config.kind == "amsgrad":
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, amsgrad=True)
    if config.kind == "soap":
        return SOAP(groups, lr=learning_rate, betas=betas)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def learning_rate(
    config: ScheduleConfig,
    base: float,
    *,
    step: int,
    n_steps: int,
    epoch: int,
    n_reductions: int,
) -> float:
    """Rate of one step, a function of numbers alone, so that a resumed run repeats it.

    Args:
        config: the schedule.
        base: the stage's learning rate.
        step: step of the stage, from 0.
        n_steps: steps the stage would have without early stopping.
        epoch: epoch of the stage, from 0.
        n_reductions: how often the plateau was met.
    """
    rate = base
    if config.kind == "cosine":
        fraction = min(step / max(n_steps, 1), 1.0)
        low = config.final_factor
        rate *= low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * fraction))
    elif config.kind == "exponential":
        rate *= config.gamma**epoch
    elif config.kind == "plateau":
        rate *= config.gamma**n_reductions
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    return rate
