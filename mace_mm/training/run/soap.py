"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., 2024, arXiv:2409.11321).

The gradient of a linear map has correlated rows and columns. Averages of G G^T and G^T G tell how;
in their eigenbasis the entries are nearly independent, which is what Adam takes for granted. A
network of a few hundred thousand weights pays little for it.
"""

from collections.abc import Iterable

import torch

from mace_mm.errors import CheckpointError

_LARGEST = 512  # a longer side keeps its own basis


class SOAP(torch.optim.Optimizer):
    """Optimizer for parameters that are matrices or stacks of matrices; the rest gets Adam.

    Matrices of one shape are updated together: a network has dozens of small ones. Their common
    state is that of the first parameter among them.

    Args:
        groups: parameters or groups of them; all get a gradient in every step.
        lr: learning rate, of the size that suits Adam.
        betas: decay of the averages of the gradient, and of its square and correlations.
        eps: added to the root of the square.
        weight_decay: decoupled, as in AdamW.
        every: steps between updates of the basis.
    """

    def __init__(
        self,
        groups: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        every: int = 10,
    ) -> None:
        super().__init__(
            groups,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "every": every},
        )

    def load_state_dict(self, state_dict: dict) -> None:
        """Raises: CheckpointError, the state of a run that an earlier version began."""
        super().load_state_dict(state_dict)
        if any("turned_mean" not in state for state in self.state.values()):
            raise CheckpointError(
                "the optimizer's state is of an earlier version of mace_mm: begin the run anew in "
                "another folder, or fine-tune from its checkpoint"
            )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the parameters; the first step only looks at the gradient."""
        for group in self.param_groups:
            alike: dict[tuple, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                alike.setdefault(_kind(parameter), []).append(parameter)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[torch.Tensor], group: dict) -> None:
        gradient = torch.cat([_stack(p.grad) for p in parameters if p.grad is not None])
        beta1, beta2 = group["betas"]
        state = self.state[parameters[0]]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["turned_mean"] = torch.zeros_like(gradient)
            state["square"] = torch.zeros_like(gradient)
            for side in _sides(gradient):
                state[f"average_{side}"] = torch.matmul(*_factors(gradient, side))
                state[f"basis_{side}"] = torch.linalg.eigh(state[f"average_{side}"]).eigenvectors
            return
        state["step"] += 1
        step = float(state["step"])
        turned = _turn(gradient, state)
        state["turned_mean"].lerp_(turned, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        scale = (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        change = state["turned_mean"] / state["square"].sqrt().add_(group["eps"])
        change = _turn_back(change, state)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        parts = change.split([len(_stack(p)) for p in parameters])
        parts = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        torch._foreach_add_(parameters, parts, alpha=-group["lr"] * scale)
        for side in _sides(gradient):
            state[f"average_{side}"].baddbmm_(
                *_factors(gradient, side), beta=beta2, alpha=1 - beta2
            )
        if step % group["every"] == 0:
            _follow(state)


def _kind(x: torch.Tensor) -> tuple:
    """What is equal for matrices that can be stacked."""
    return (x.dtype, x.device, *(x.shape[-2:] if x.dim() > 1 else ()))


def _stack(x: torch.Tensor) -> torch.Tensor:
    """(n, rows, columns), or (n,) where there are no matrices."""
    return x.reshape(-1, *x.shape[-2:]) if x.dim() > 1 else x.reshape(-1)


def _sides(x: torch.Tensor) -> list[str]:
    if x.dim() < 2:
        return []
    return [
        side for side, size in (("rows", x.size(1)), ("columns", x.size(2))) if 1 < size <= _LARGEST
    ]


def _factors(x: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Whose product tells how the rows or the columns are correlated."""
    return (x, x.mT) if side == "rows" else (x.mT, x)


def _turn(x: torch.Tensor, state: dict) -> torch.Tensor:
    if "basis_rows" in state:
        x = state["basis_rows"].mT @ x
    return x @ state["basis_columns"] if "basis_columns" in state else x


def _turn_back(x: torch.Tensor, state: dict) -> torch.Tensor:
    if "basis_rows" in state:
        x = state["basis_rows"] @ x
    return x @ state["basis_columns"].mT if "basis_columns" in state else x


def _follow(state: dict) -> None:
    """One power iteration towards the eigenvectors of the averages, largest first."""
    mean = _turn_back(state["turned_mean"], state)
    for side in ("rows", "columns"):
        if f"basis_{side}" not in state:
            continue
        average, basis = state[f"average_{side}"], state[f"basis_{side}"]
        values = ((average @ basis) * basis).sum(1)
        order = values.argsort(dim=1, descending=True)
        along = order.unsqueeze(1)
        basis = basis.gather(2, along.expand_as(basis))
        square = state["square"]
        state["square"] = (
            square.gather(1, order.unsqueeze(2).expand_as(square))
            if side == "rows"
            else square.gather(2, along.expand_as(square))
        )
        state[f"basis_{side}"] = torch.linalg.qr(average @ basis).Q
    state["turned_mean"] = _turn(mean, state)
