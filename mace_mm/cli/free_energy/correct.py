"""``mace-mm correct``: the free energy of going from a force field to ML/MM."""

from rich.console import Console

from mace_mm.cli.free_energy.arguments import ConfigFile, Overrides, Plan


def correct(config: ConfigFile, overrides: Overrides = None, plan: Plan = False) -> None:
    """Correct a force field's end state to ML/MM. An interrupted run continues."""
    from mace_mm.free_energy.dependencies import check_dependencies

    check_dependencies()
    from mace_mm.cli.free_energy.run import Stages, show_plan, show_result
    from mace_mm.free_energy.config import CorrectionConfig, read_config
    from mace_mm.free_energy.jobs.correct import correction_leg, correction_protocol, run_correction
    from mace_mm.free_energy.jobs.planner import plan_leg

    settings = read_config(config, CorrectionConfig, overrides or [])
    console = Console(soft_wrap=True)
    if plan:
        show_plan(console, [plan_leg(correction_leg(settings), correction_protocol(settings))])
        return
    with Stages(Console(stderr=True)) as stages:
        result = run_correction(settings, stages.report)
    if result is not None:
        show_result(console, result.methods, result.verdict, settings.output)
