"""``mace-mm binding``: corrections of binding free energies to ML/MM."""

from rich.console import Console

from mace_mm.cli.free_energy.arguments import ConfigFile, Overrides, Plan


def binding(config: ConfigFile, overrides: Overrides = None, plan: Plan = False) -> None:
    """Correct binding free energies of a set of ligands to ML/MM. An interrupted run continues."""
    from mace_mm.free_energy.dependencies import check_dependencies

    check_dependencies()
    from mace_mm.cli.free_energy.run import Stages, show_plan, show_result, show_table
    from mace_mm.free_energy.config import read_config
    from mace_mm.free_energy.jobs.binding import binding_tables, run_binding
    from mace_mm.free_energy.jobs.binding_config import BindingConfig
    from mace_mm.free_energy.jobs.binding_legs import binding_legs, binding_protocol
    from mace_mm.free_energy.jobs.planner import plan_leg

    settings = read_config(config, BindingConfig, overrides or [])
    console = Console(soft_wrap=True)
    if plan:
        protocol = binding_protocol(settings)
        show_plan(console, [plan_leg(leg, protocol) for leg in binding_legs(settings).values()])
        return
    with Stages(Console(stderr=True)) as stages:
        result = run_binding(settings, stages.report)
    if result is None:
        return
    for table in binding_tables(settings, result)[1:]:
        show_table(console, table)
    show_result(console, result.corrections, result.verdict, settings.output)
