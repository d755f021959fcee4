"""Convolution and symmetric contraction for training: compiled, with second derivatives.

Forces are a derivative of the energy and the loss is a derivative of the forces, so each operation
comes with its gradient and the gradient's gradient. They run on the CPU in one thread, in float32
and float64; sums have a fixed order, so that a run repeats itself bit for bit.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from mace_mm.kernels.training_library import EdgeTable, TermTable, TrainingLibrary

Tensors = tuple[torch.Tensor, ...]


class Edges(NamedTuple):
    """Directed edges, two for each pair of neighbors.

    Attributes:
        senders, receivers: (n_edges,) int64; best sorted by receiver.
        pairs: (n_edges,) int64, the pair an edge belongs to.
        reversed: (n_edges,) uint8, 1 where the edge runs against the pair's vector.
        n_atoms: number of atoms.
    """

    senders: torch.Tensor
    receivers: torch.Tensor
    pairs: torch.Tensor
    reversed: torch.Tensor
    n_atoms: int


class ConvolutionPlan(NamedTuple):
    """What one layer's convolution couples.

    Attributes:
        library: compiled kernels.
        paths: (n_paths, 6) int32, see `TrainingPath` in engine/training/training.h.
        n_mixing: numbers in the mixing tables of all paths.
        places: number of paths into each l_out.
    """

    library: TrainingLibrary
    paths: torch.Tensor
    n_mixing: int
    places: tuple[int, ...]


class ContractionPlan(NamedTuple):
    """What one layer's contractions multiply.

    Attributes:
        library: compiled kernels.
        terms: (n_terms, 4) int32: output component and three input components, where the one
            after the last stands for 1.
        l_in, l_out: degrees 0 to l_in go in, 0 to l_out come out.
    """

    library: TrainingLibrary
    terms: torch.Tensor
    l_in: int
    l_out: int


def convolve(
    plan: ConvolutionPlan,
    edges: Edges,
    radial: torch.Tensor,
    mixing: torch.Tensor,
    features: list[torch.Tensor],
) -> Tensors:
    """Sum messages onto receivers.

    Args:
        plan: of the layer.
        edges: of the batch.
        radial: (n_pairs, n_paths * channels).
        mixing: (n_pairs, n_mixing), for each path (2 l_in + 1, 2 l_out + 1): harmonics of the
            pair's vector times the coupling.
        features: one (n_atoms, 2 l + 1, channels) for each l.

    Returns:
        One (n_atoms, 2 l_out + 1, n_places * channels) for each l_out.
    """
    return _Convolution.apply(plan, edges, radial, mixing, *features)


def contract(
    plan: ContractionPlan,
    species: torch.Tensor,
    weights: torch.Tensor,
    messages: list[torch.Tensor],
    differentiate_weights_twice: bool = True,
) -> Tensors:
    """Evaluate the polynomials of `plan`.

    Args:
        plan: of the layer.
        species: (n_atoms,) int64.
        weights: (n_species, n_terms, channels).
        messages: one (n_atoms, 2 l + 1, channels) for each l up to l_in.
        differentiate_weights_twice: False where a gradient that is differentiated again is never
            one with respect to the weights, as that of forces: they are then left out of it.

    Returns:
        One (n_atoms, 2 l + 1, channels) for each l up to l_out.
    """
    return _Contraction.apply(plan, species, differentiate_weights_twice, weights, *messages)


def _zeros_like(tensors: Tensors) -> Tensors:
    return tuple(torch.zeros_like(t) for t in tensors)


def _contiguous(tensors: Tensors) -> Tensors:
    return tuple(t.contiguous() for t in tensors)


def _edge_table(plan: ConvolutionPlan, edges: Edges, channels: int) -> EdgeTable:
    return EdgeTable(
        len(edges.senders),
        edges.senders.data_ptr(),
        edges.receivers.data_ptr(),
        edges.pairs.data_ptr(),
        edges.reversed.data_ptr(),
        plan.paths.data_ptr(),
        len(plan.paths),
        plan.n_mixing,
        channels,
    )


def _term_table(plan: ContractionPlan, species: torch.Tensor, channels: int) -> TermTable:
    return TermTable(
        len(species),
        species.data_ptr(),
        plan.terms.data_ptr(),
        len(plan.terms),
        plan.l_in,
        plan.l_out,
        channels,
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, edges, radial, mixing, *features):  # type: ignore[no-untyped-def]
        radial, mixing, *inputs = _contiguous((radial, mixing, *features))
        ctx.plan, ctx.edges = plan, edges
        ctx.save_for_backward(radial, mixing, *inputs)
        channels = inputs[0].size(2)
        out = tuple(
            radial.new_zeros(edges.n_atoms, 2 * degree + 1, n * channels)
            for degree, n in enumerate(plan.places)
        )
        table = _edge_table(plan, edges, channels)
        plan.library.call("convolution_value", table, radial, mixing, inputs, out)
        return out

    @staticmethod
    def backward(ctx, *d_out):  # type: ignore[no-untyped-def]
        saved = ctx.saved_tensors
        found = _ConvolutionGradient.apply(ctx.plan, ctx.edges, len(saved), *saved, *d_out)
        return None, None, *found


class _ConvolutionGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, edges, n, *tensors):  # type: ignore[no-untyped-def]
        tensors = _contiguous(tensors)
        ctx.plan, ctx.edges, ctx.n = plan, edges, n
        ctx.save_for_backward(*tensors)
        (radial, mixing, *features), d_out = tensors[:n], tensors[n:]
        d_radial, d_mixing, *d_features = _zeros_like(tensors[:n])
        plan.library.call(
            "convolution_gradient",
            _edge_table(plan, edges, features[0].size(2)),
            *(radial, mixing, features, d_out, d_radial, d_mixing, d_features),
        )
        return d_radial, d_mixing, *d_features

    @staticmethod
    @once_differentiable
    def backward(ctx, *tangents):  # type: ignore[no-untyped-def]
        n, tensors = ctx.n, ctx.saved_tensors
        (radial, mixing, *features), d_out = tensors[:n], tensors[n:]
        t_radial, t_mixing, *t_features = _contiguous(tangents)
        back = _zeros_like(tensors)
        b_radial, b_mixing, *b_features = back[:n]
        ctx.plan.library.call(
            "convolution_second",
            _edge_table(ctx.plan, ctx.edges, features[0].size(2)),
            *(radial, mixing, features, d_out, t_radial, t_mixing, t_features),
            *(b_radial, b_mixing, b_features, back[n:]),
        )
        return None, None, None, *back


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, species, twice, weights, *messages):  # type: ignore[no-untyped-def]
        weights, *inputs = _contiguous((weights, *messages))
        ctx.plan, ctx.species, ctx.twice = plan, species, twice
        ctx.save_for_backward(weights, *inputs)
        channels = weights.size(2)
        out = tuple(
            weights.new_zeros(len(species), 2 * degree + 1, channels)
            for degree in range(plan.l_out + 1)
        )
        table = _term_table(plan, species, channels)
        plan.library.call("contraction_value", table, inputs, weights, out)
        return out

    @staticmethod
    def backward(ctx, *d_out):  # type: ignore[no-untyped-def]
        # Gradients are recorded in this pass if and only if they will be differentiated again.
        wanted = ctx.needs_input_grad[3] and (ctx.twice or not torch.is_grad_enabled())
        found = _ContractionGradient.apply(
            ctx.plan, ctx.species, wanted, *ctx.saved_tensors, *d_out
        )
        return None, None, None, found[0] if wanted else None, *found[1:]


class _ContractionGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, species, wanted, *tensors):  # type: ignore[no-untyped-def]
        tensors = _contiguous(tensors)
        ctx.plan, ctx.species = plan, species
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        n = plan.l_in + 1
        weights, messages, d_out = tensors[0], tensors[1 : n + 1], tensors[n + 1 :]
        d_weights = torch.zeros_like(weights) if wanted else weights.new_zeros(0)
        d_messages = _zeros_like(messages)
        plan.library.call(
            "contraction_gradient",
            _term_table(plan, species, weights.size(2)),
            *(messages, weights, d_out, d_messages, d_weights if wanted else None),
        )
        return d_weights, *d_messages

    @staticmethod
    @once_differentiable
    def backward(ctx, t_weights, *t_messages):  # type: ignore[no-untyped-def]
        tensors, plan = ctx.saved_tensors, ctx.plan
        n = plan.l_in + 1
        weights, messages, d_out = tensors[0], tensors[1 : n + 1], tensors[n + 1 :]
        if t_weights is not None:
            t_weights = t_weights.contiguous() if t_weights.numel() else None
        t_messages = tuple(
            torch.zeros_like(m) if t is None else t.contiguous()
            for t, m in zip(t_messages, messages, strict=True)
        )
        back = _zeros_like(tensors)
        plan.library.call(
            "contraction_second",
            _term_table(plan, ctx.species, weights.size(2)),
            *(messages, weights, d_out, t_messages, t_weights),
            *(back[1 : n + 1], back[0], back[n + 1 :]),
        )
        return None, None, None, *back
