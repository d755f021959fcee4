"""``mace-mm hydration``: hydration free energies, by the force field and corrected to ML/MM."""

from rich.console import Console

from mace_mm.cli.free_energy.arguments import ConfigFile, Overrides, Plan


def hydration(config: ConfigFile, overrides: Overrides = None, plan: Plan = False) -> None:
    """Compute a hydration free energy. An interrupted run continues."""
    from mace_mm.free_energy.dependencies import check_dependencies

    check_dependencies()
    from mace_mm.cli.free_energy.run import Stages, show_plan, show_result
    from mace_mm.free_energy.config import read_config
    from mace_mm.free_energy.jobs.hydration import (
        HydrationConfig,
        estimates,
        hydration_legs,
        run_hydration,
    )
    from mace_mm.free_energy.jobs.planner import plan_leg

    settings = read_config(config, HydrationConfig, overrides or [])
    console = Console(soft_wrap=True)
    if plan:
        legs = hydration_legs(settings).values()
        show_plan(console, [plan_leg(leg, protocol) for leg, protocol in legs])
        return
    with Stages(Console(stderr=True)) as stages:
        result = run_hydration(settings, stages.report)
    if result is not None:
        show_result(console, estimates(result), result.verdict, settings.output)
