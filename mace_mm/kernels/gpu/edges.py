"""Full lists of edges: who is the reverse of whom."""

import torch

from mace_mm.errors import InputError


def reverse_edges(
    senders: torch.Tensor, receivers: torch.Tensor, shifts: torch.Tensor
) -> torch.Tensor:
    """For each edge (j -> i, S) the index of (i -> j, -S).

    Raises:
        InputError: the list is not sorted by receiver, or lacks the reverse of an edge.
    """
    if not len(senders):
        return torch.zeros(0, dtype=torch.int64, device=senders.device)
    if bool((receivers[1:] < receivers[:-1]).any()):
        raise InputError("edges must be sorted by receiver")
    span = 2 * int(shifts.abs().max()) + 1
    n = int(torch.maximum(senders.max(), receivers.max())) + 1

    def key(a: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        code = s + span // 2
        return (((a * n + b) * span + code[:, 0]) * span + code[:, 1]) * span + code[:, 2]

    own, other = key(receivers, senders, shifts), key(senders, receivers, -shifts)
    by_own, by_other = torch.argsort(own), torch.argsort(other)
    if not torch.equal(own[by_own], other[by_other]):
        raise InputError("a full list of edges is needed: the reverse of some edge is missing")
    reverse = torch.empty_like(by_own)
    reverse[by_other] = by_own
    return reverse
