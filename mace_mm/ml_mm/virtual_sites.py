"""Virtual sites: particles without mass whose places follow from those of others."""

from collections.abc import Container, Mapping

import openmm


def virtual_sites(system: openmm.System) -> dict[int, tuple[int, ...]]:
    """The particles that define each virtual site of a System."""
    found = {}
    for i in range(system.getNumParticles()):
        if system.isVirtualSite(i):
            site = system.getVirtualSite(i)
            found[i] = tuple(site.getParticle(k) for k in range(site.getNumParticles()))
    return found


def sites_inside(parents: Mapping[int, tuple[int, ...]], atoms: Container[int]) -> list[int]:
    """Sites that only these atoms, or other sites of them, define.

    Args:
        parents: from :func:`virtual_sites`.
        atoms: of a molecule or region; sites may be among them.
    """
    inside: dict[int, None] = {}
    grown = True
    while grown:
        new = [
            site
            for site, defining in parents.items()
            if site not in inside and all(i in atoms or i in inside for i in defining)
        ]
        inside.update(dict.fromkeys(new))
        grown = bool(new)
    return list(inside)
