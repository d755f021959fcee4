"""Widen a network to more channels that hold zeros: same energies, rounder sizes."""

import dataclasses
import math
import re

import torch

from mace_mm.model.mace.network import MACE

# Which axes of a parameter run over channels, and whether its normalization counts them.
_CHANNEL_AXES: tuple[tuple[str, tuple[int, ...], bool], ...] = (
    (r"embedding\.weight", (1,), False),
    (r"layers\.\d+\.interaction\.linear_up\.weights\.\d+", (0, 1), True),
    (r"layers\.\d+\.interaction\.linear\.weights\.\d+", (0, 1), True),
    (r"layers\.\d+\.interaction\.skip\.weights\.\d+", (1, 2), True),
    (r"layers\.\d+\.product\.linear\.weights\.\d+", (0, 1), True),
    (r"layers\.\d+\.product\.contractions\.\d+\.weights\.\d+", (2,), False),
    (r"readouts\.\d+\.(weight|linear_1)", (0,), True),
)


def pad_channels(network: MACE, multiple: int) -> MACE:
    """A float64 copy whose number of channels is a multiple of ``multiple``.

    Weights into and out of the new channels are zero. The others grow by the square root of the
    ratio of widths, which undoes the wider network's normalization by its fan-in.
    """
    config = network.config
    narrow = config.channels
    wide = -(-narrow // multiple) * multiple
    padded = MACE(dataclasses.replace(config, channels=wide)).requires_grad_(False)
    factor = math.sqrt(wide / narrow)
    last_radial = f"radial.weights.{len(config.radial_mlp)}"
    targets = dict(padded.named_parameters())
    with torch.no_grad():
        for name, source in network.named_parameters():
            axes, scaled = ((1,), False) if name.endswith(last_radial) else _axes(name)
            values = source.detach().double()
            for axis in axes:
                values = _pad(values, axis, narrow, wide)
            targets[name].copy_(values * factor if scaled else values)
        for name, buffer in network.named_buffers():
            padded.get_buffer(name).copy_(buffer)
    return padded


def _axes(name: str) -> tuple[tuple[int, ...], bool]:
    for pattern, axes, scaled in _CHANNEL_AXES:
        if re.fullmatch(pattern, name):
            return axes, scaled
    return (), False


def _pad(values: torch.Tensor, axis: int, narrow: int, wide: int) -> torch.Tensor:
    """Append zeros to each block of ``narrow`` entries along the axis."""
    blocks = values.unflatten(axis, (-1, narrow)).movedim(axis + 1, -1)
    padded = torch.nn.functional.pad(blocks, [0, wide - narrow])
    return padded.movedim(-1, axis + 1).flatten(axis, axis + 1)
