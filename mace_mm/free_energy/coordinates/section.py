"""The conformers of a leg in the report: starts, what moved, and drawings of what did not."""

import base64
import html
import io

import numpy as np
from matplotlib.figure import Figure

from mace_mm.free_energy.coordinates.drawing import draw_svg
from mace_mm.free_energy.coordinates.result import ConformerResult
from mace_mm.free_energy.coordinates.verdict import Followed

_MOST_PICTURES = 8


def conformer_section(result: ConformerResult | None) -> str:
    """HTML for one leg, empty where there is no ligand to speak of."""
    if result is None:
        return ""
    parts = ["<h3>Conformers</h3>", f"<p>Started from {html.escape(result.ground)}.</p>"]
    for part, followed in result.parts.items():
        if not followed:
            continue
        name = f" ({part})" if len(result.parts) > 1 else ""
        parts.append(_table(followed, name))
    pictures = list(result.to_draw())
    # What counts against the result first.
    pictures.sort(key=lambda item: not item[1].reasons)
    parts += [_picture(result, one) for _, one in pictures[:_MOST_PICTURES]]
    if len(pictures) > _MOST_PICTURES:
        parts.append(
            f"<p>{len(pictures) - _MOST_PICTURES} further drawings are in the leg's folder "
            "<code>conformers</code>.</p>"
        )
    return "".join(parts)


def _table(followed: list[Followed], name: str) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(_states(one))}</td>"
        f'<td class="number">{"" if one.slow is None else one.slow.n_transitions}</td>'
        f"<td>{html.escape(_decided(one))}</td></tr>"
        for one in followed
    )
    return (
        f"<table><tr><th>followed{html.escape(name)}</th><th>states</th><th>transitions</th>"
        f"<th>decided</th></tr>{rows}</table>"
    )


def _states(one: Followed) -> str:
    """What the states are called, and the share of those seen over all windows."""
    shares = {}
    if one.slow is not None:
        seen = np.nanmean(one.slow.occupancy, axis=0)
        shares = {
            state: f" ({share:.0%})" for state, share in zip(one.slow.visited, seen, strict=True)
        }
    return ", ".join(name + shares.get(i, " (not seen)") for i, name in enumerate(one.states))


def _decided(one: Followed) -> str:
    return f"{'counts against the result: ' if one.reasons else ''}{one.ground}"


def _picture(result: ConformerResult, one: Followed) -> str:
    drawing = base64.b64encode(draw_svg(result.ligand, one.coordinate).encode()).decode()
    caption = "; ".join(one.reasons) or f"{one.name}: {one.ground}"
    return (
        '<figure style="display: flex; gap: 1em; align-items: center; margin: 1.5em 0 0">'
        f'<img style="width: 40%" alt="{html.escape(one.name)}" '
        f'src="data:image/svg+xml;base64,{drawing}">'
        f'<img style="width: 58%" alt="path of {html.escape(one.name)}" '
        f'src="data:image/png;base64,{base64.b64encode(_path_png(one)).decode()}"></figure>'
        f'<p style="margin-bottom: 1.5em">{html.escape(caption)}</p>'
    )


def _path_png(one: Followed) -> bytes:
    """The coordinate against time, one color a replica."""
    figure = Figure(figsize=(6.2, 2.9), layout="constrained")
    axes = figure.subplots()
    which = int(np.argmax(np.ptp(one.values, axis=(0, 1)))) if one.values.size else 0
    values = one.values[..., which]
    period = one.coordinate.period
    if period is not None:
        # Cut the circle where nothing is, so that no state lies in two pieces.
        counts, edges = np.histogram(values, bins=36, range=(0.0, period))
        quiet = counts + np.roll(counts, 1) + np.roll(counts, -1)
        cut = float(edges[int(np.argmin(quiet))])
        values = np.mod(values - cut, period) + cut
        axes.set_ylim(cut, cut + period)
        ticks = np.arange(np.ceil(cut / 60.0) * 60.0, cut + period, 60.0)
        axes.set_yticks(ticks, [f"{tick % period:.0f}" for tick in ticks])
        axes.set_ylabel(f"{one.coordinate.kind}, °")
    else:
        axes.set_ylabel(one.coordinate.columns[which].rsplit(" ", 1)[-1])
    for replica, path in enumerate(values.T):
        place = replica / max(1, values.shape[1] - 1)
        axes.plot(
            path,
            ".",
            markersize=3.0,
            color=(place, 0.35, 0.75 - 0.5 * place),
            label=f"replica {replica}",
        )
    axes.set_xlabel("iteration")
    if values.shape[1] <= 8:
        axes.legend(
            frameon=False, fontsize=8, markerscale=2.5, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
