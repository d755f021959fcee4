"""The verdict at the top of a report, in its color."""

import html

from mace_mm.simulation.watch.verdict import ATTENTION, BAD, GOOD, RunVerdict

# Green, amber, red; text and shape say the same, for those who see no colors.
VERDICT_STYLE = """
.verdict { border-left: .4rem solid; border-radius: 4px; padding: .6rem 1rem; margin: 1rem 0;
  overflow-wrap: anywhere; }
.verdict p { margin: 0; } .verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.verdict.good { border-color: #2a7d3f; background: #eef7f0; }
.verdict.attention { border-color: #c77700; background: #fdf5e6; }
.verdict.bad { border-color: #b3261e; background: #fbeeed; }
"""
_SIGNS = {GOOD: "✓", ATTENTION: "!", BAD: "✗"}
_SHOWN = 12


def verdict_box(verdict: RunVerdict) -> str:
    """HTML of a verdict; long lists of reasons fold."""
    sign = _SIGNS[verdict.level]
    lines = [f"<li>{html.escape(reason)}</li>" for reason in verdict.reasons]
    listed = f"<ul>{''.join(lines[:_SHOWN])}</ul>" if lines else ""
    if len(lines) > _SHOWN:
        listed += (
            f"<details><summary>{len(lines) - _SHOWN} more</summary>"
            f"<ul>{''.join(lines[_SHOWN:])}</ul></details>"
        )
    headline = html.escape(verdict.headline)
    return f'<div class="verdict {verdict.level}"><p><b>{sign} {headline}</b></p>{listed}</div>'
