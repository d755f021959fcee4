"""Averages of the weights over training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Exponential or equal-weight average of a model's parameters, on the model's device.

    Args:
        parameters: the model's parameters; what they are now starts the average.
        kind: "ema", "swa" or "none" (the average is the weights themselves).
        decay: of the exponential average, per step; lower in the first steps, so that the
            initial weights are soon forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], kind: str, decay: float) -> None:
        self.parameters = list(parameters)
        self.kind = kind
        self.decay = decay
        self.n_updates = 0
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the exponential average."""
        if self.kind == "ema":
            self.n_updates += 1
            decay = min(self.decay, (1.0 + self.n_updates) / (10.0 + self.n_updates))
            for value, parameter in zip(self.values, self.parameters, strict=True):
                value.lerp_(parameter, 1.0 - decay)

    @torch.no_grad()
    def after_epoch(self) -> None:
        """Update the equal-weight average; without averaging, follow the weights."""
        if self.kind == "swa":
            self.n_updates += 1
            for value, parameter in zip(self.values, self.parameters, strict=True):
                value.lerp_(parameter, 1.0 / self.n_updates)
        elif self.kind == "none":
            for value, parameter in zip(self.values, self.parameters, strict=True):
                value.copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the time of the context."""
        raw = [p.detach().clone() for p in self.parameters]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(raw)

    @torch.no_grad()
    def _set(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
