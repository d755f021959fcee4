"""``mace-mm binding``: corrections of binding free energies to ML/MM, for a set of ligands."""

import csv
import io
import json
from dataclasses import dataclass

from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.convergence import Verdict, join_verdicts
from mace_mm.free_energy.analysis.cycles import Cycle, Edge, find_cycles, fit_ligands
from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.free_energy.analysis.report import TextTable, write_report
from mace_mm.free_energy.jobs.binding_config import BindingConfig, Known
from mace_mm.free_energy.jobs.binding_legs import COMPLEX, SOLVENT, binding_legs, binding_protocol
from mace_mm.free_energy.jobs.correct import write_config
from mace_mm.free_energy.jobs.run_leg import run_legs
from mace_mm.free_energy.leg_result import RESULT_NAME, LegResult, LegStoppedError, estimate_json
from mace_mm.free_energy.protocol import OnStage
from mace_mm.free_energy.stopped import write_stopped

TABLE_NAME = "binding.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class BindingResult:
    """Corrections of a set of ligands.

    Attributes:
        corrections: by ligand, ΔG_bind(ML/MM) - ΔG_bind(force field).
        legs: by ligand and place.
        verdict: over all legs.
    """

    corrections: dict[str, Estimate]
    legs: dict[tuple[str, str], LegResult]
    verdict: Verdict


def run_binding(config: BindingConfig, on_stage: OnStage | None = None) -> BindingResult | None:
    """Run or continue all legs, and write tables, results and a report.

    Returns:
        The result, None on MPI ranks other than the first.

    Raises:
        LegStoppedError: a ligand was destroyed; what the legs have is written.
    """
    protocol = binding_protocol(config)
    legs = {
        f"{name}/{place}": (leg, protocol) for (name, place), leg in binding_legs(config).items()
    }
    try:
        results = run_legs(legs, config.output, on_stage)
    except LegStoppedError as error:
        write_config(config.output, config.model_dump_json())
        write_stopped(config.output, config.name, _title(config), error)
        raise
    if not results:
        return None
    legs_of = {
        (ligand.name, place): results[f"{ligand.name}/{place}"]
        for ligand in config.ligands
        for place in (SOLVENT, COMPLEX)
    }
    corrections = {
        ligand.name: legs_of[ligand.name, COMPLEX].estimate - legs_of[ligand.name, SOLVENT].estimate
        for ligand in config.ligands
    }
    binding = BindingResult(
        corrections=corrections,
        legs=legs_of,
        verdict=join_verdicts({result.name: result.verdict for result in legs_of.values()}),
    )
    write_config(config.output, config.model_dump_json())
    _write(config, binding)
    return binding


def corrected_edges(config: BindingConfig, corrections: dict[str, Estimate]) -> list[Edge]:
    """Relative binding free energies by ML/MM. Their errors share those of the ligands."""
    return [
        Edge(
            first=edge.first,
            second=edge.second,
            estimate=edge.estimate + corrections[edge.second] - corrections[edge.first],
        )
        for edge in force_field_edges(config)
    ]


def force_field_edges(config: BindingConfig) -> list[Edge]:
    """Relative binding free energies by the force field."""
    return [
        Edge(first=edge.first, second=edge.second, estimate=edge.force_field_kcal_mol.estimate())
        for edge in config.edges
    ]


def cycle_closures(config: BindingConfig) -> list[Cycle]:
    """Closure of the force field's cycles.

    Corrections belong to ligands and cancel around every cycle: ML/MM closes as the force field
    does.
    """
    return find_cycles(force_field_edges(config))


def fitted_ligands(
    config: BindingConfig, corrections: dict[str, Estimate]
) -> dict[str, tuple[Estimate, Estimate]]:
    """Every ligand of the network relative to the mean of all: by the force field, by ML/MM."""
    fitted = fit_ligands(force_field_edges(config))
    n = len(fitted)
    mean = sum((corrections[name].value_kj_mol for name in fitted), 0.0) / n
    result = {}
    for name, estimate in fitted.items():
        # Variance of a ligand's correction less the mean of all.
        variance = sum(
            (corrections[other].error_kj_mol * ((1.0 if other == name else 0.0) - 1.0 / n)) ** 2
            for other in fitted
        )
        shift = Estimate(
            value_kj_mol=corrections[name].value_kj_mol - mean, error_kj_mol=variance**0.5
        )
        result[name] = estimate, estimate + shift
    return result


def known_estimate(known: Known | None) -> Estimate | None:
    """What the settings know, None where they do not."""
    return None if known is None else known.estimate()


def _kcal(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value_kcal_mol:.2f} ± {estimate.error_kcal_mol:.2f}"


def binding_tables(config: BindingConfig, result: BindingResult) -> list[TextTable]:
    """Ligands, edges and cycles, in kcal/mol."""
    fitted = fitted_ligands(config, result.corrections) if config.edges else {}
    ligands = []
    for ligand in config.ligands:
        absolute = known_estimate(ligand.force_field_kcal_mol)
        correction = result.corrections[ligand.name]
        relative = fitted.get(ligand.name, (None, None))
        ligands.append(
            (
                ligand.name,
                _kcal(result.legs[ligand.name, COMPLEX].estimate),
                _kcal(result.legs[ligand.name, SOLVENT].estimate),
                _kcal(correction),
                _kcal(absolute),
                _kcal(absolute + correction if absolute else None),
                _kcal(relative[0]),
                _kcal(relative[1]),
                _kcal(known_estimate(ligand.experiment_kcal_mol)),
            )
        )
    tables = [
        TextTable(
            title="Ligands, kcal/mol",
            columns=(
                "ligand", "ΔF complex", "ΔF solvent", "correction", "ΔG force field",
                "ΔG ML/MM", "ΔG force field, of the network", "ΔG ML/MM, of the network",
                "experiment",
            ),
            rows=tuple(ligands),
        )
    ]  # fmt: skip
    if not config.edges:
        return tables
    pairs = zip(force_field_edges(config), corrected_edges(config, result.corrections), strict=True)
    tables.append(
        TextTable(
            title="Edges, kcal/mol",
            columns=("from", "to", "ΔΔG force field", "ΔΔG ML/MM", "experiment"),
            rows=tuple(
                (old.first, old.second, _kcal(old.estimate), _kcal(new.estimate),
                 _kcal(_measured(config, old)))
                for old, new in pairs
            ),
        )
    )  # fmt: skip
    tables.append(
        TextTable(
            title="Cycle closure, kcal/mol (the same for force field and ML/MM)",
            columns=("cycle", "closure"),
            rows=tuple(
                (" → ".join((*cycle.ligands, cycle.ligands[0])), _kcal(cycle.closure))
                for cycle in cycle_closures(config)
            ),
        )
    )
    return tables


def _measured(config: BindingConfig, edge: Edge) -> Estimate | None:
    known = {ligand.name: ligand.experiment_kcal_mol for ligand in config.ligands}
    first, second = known_estimate(known[edge.first]), known_estimate(known[edge.second])
    return None if first is None or second is None else second - first


def _title(config: BindingConfig) -> str:
    return f"{config.name}: corrections of binding free energies to {config.potential.name}"


def _write(config: BindingConfig, result: BindingResult) -> None:
    tables = binding_tables(config, result)
    content = {
        "name": config.name,
        **result.verdict.to_json(),
        "corrections": {name: estimate_json(e) for name, e in result.corrections.items()},
        "edges": [
            {"first": edge.first, "second": edge.second} | estimate_json(edge.estimate)
            for edge in corrected_edges(config, result.corrections)
        ],
        "cycles": [
            {"ligands": list(cycle.ligands)} | estimate_json(cycle.closure)
            for cycle in cycle_closures(config)
        ],
        "legs": {leg.name: leg.to_json() for leg in result.legs.values()},
    }
    write_atomically(config.output / RESULT_NAME, json.dumps(content, indent=1).encode())
    text = io.StringIO()
    csv.writer(text).writerows([tables[0].columns, *tables[0].rows])
    write_atomically(config.output / TABLE_NAME, text.getvalue().encode())
    write_report(
        config.output,
        _title(config),
        {f"correction, {name}": estimate for name, estimate in result.corrections.items()},
        list(result.legs.values()),
        result.verdict,
        ["A correction is ΔG_bind by ML/MM less ΔG_bind by the force field."],
        tables,
    )
