"""SOAP: what it is for, what it falls back to, and that a run with it continues exactly."""

from pathlib import Path

import pytest
import torch

from mace_mm.errors import CheckpointError
from mace_mm.training.run.checkpoint import list_checkpoints
from mace_mm.training.run.soap import SOAP
from tests.support.training_frames import settings
from tests.training.test_run import assert_same, run


def _descend(optimizer_of, steps: int) -> float:
    """Final loss of a matrix whose rows and columns are strongly correlated."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
        for n in (6, 9)
    )
    left = rows * torch.logspace(0, -1.5, 6, dtype=torch.float64)
    right = columns * torch.logspace(0, -1.5, 9, dtype=torch.float64)
    target = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    matrix = torch.zeros(6, 9, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_of([matrix])

    def loss() -> torch.Tensor:
        return (left.T @ (matrix - target) @ right).square().sum()

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return loss().item()


def test_correlated_weights_are_learned_in_fewer_steps_than_with_adam() -> None:
    soap = _descend(lambda p: SOAP(p, lr=0.05), 300)
    adam = _descend(lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.95, 0.99)), 300)
    assert soap < 0.02 * adam


def test_vectors_get_adam() -> None:
    gradients = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    own, other = (torch.ones(5, requires_grad=True) for _ in range(2))
    soap = SOAP([own], lr=0.01, betas=(0.9, 0.95))
    adam = torch.optim.Adam([other], lr=0.01, betas=(0.9, 0.95))
    for step, gradient in enumerate(gradients):
        own.grad = gradient.clone()
        soap.step()
        if step:  # the first is only looked at
            other.grad = gradient.clone()
            adam.step()
    torch.testing.assert_close(own, other)


def test_a_stack_of_matrices_is_so_many_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    stack = start.clone().requires_grad_(True)
    parts = [m.clone().requires_grad_(True) for m in start]
    optimizers = [SOAP([stack], lr=0.01, weight_decay=0.1), SOAP(parts, lr=0.01, weight_decay=0.1)]
    for _ in range(45):
        gradient = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
        stack.grad = gradient
        for part, own in zip(parts, gradient, strict=True):
            part.grad = own.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack, torch.stack(parts), rtol=1e-9, atol=1e-9)
    basis = optimizers[0].state[stack]["basis_columns"]
    eye = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(basis.mT @ basis, eye)
    assert not torch.equal(stack, start)


def test_the_state_of_an_earlier_version_is_refused() -> None:
    matrix = torch.ones(3, 4, requires_grad=True)
    matrix.grad = torch.ones(3, 4)
    soap = SOAP([matrix], lr=0.01)
    soap.step()
    state = soap.state_dict()
    soap.load_state_dict(state)
    state["state"][0]["mean"] = state["state"][0].pop("turned_mean")
    with pytest.raises(CheckpointError, match="earlier version of mace_mm: begin the run anew"):
        soap.load_state_dict(state)


def test_a_run_continues_in_the_same_bits(tmp_path: Path) -> None:
    values = settings(tmp_path)
    values["optimizer"] = {"kind": "soap", "beta1": 0.95, "beta2": 0.99}
    values["stages"] = [{"epochs": 5, "learning_rate": 0.01}]
    values["run"] = {**values.get("run", {}), "keep_checkpoints": 1000}
    expected = run(values)
    paths = list_checkpoints(Path(values["output"]))
    assert len(paths) > 6
    assert expected.progress["step"] > 20  # the basis moved, more than once
    for path in paths[len(paths) // 2 :]:
        path.unlink()
    assert_same(run(values), expected)


def test_its_settings_reach_it(tmp_path: Path) -> None:
    values = settings(tmp_path)
    values["optimizer"] = {"kind": "soap", "beta1": 0.5, "beta2": 0.75}
    values["stages"] = [{"epochs": 1, "learning_rate": 0.01}]
    group = run(values).optimizer["param_groups"][0]
    assert tuple(group["betas"]) == (0.5, 0.75)
    assert group["every"] == 10
