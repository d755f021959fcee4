"""Molecules enumerated here: drug-like fragments and capped peptides, neutral, H C N O F S Cl."""

from itertools import product

# Cores with one to three open places; {0}, {1} and {2} take substituents.
_CORES = (
    "c1cc({0})ccc1{1}",
    "c1c({0})cccc1{1}",
    "c1c({0})c({2})ccc1{1}",
    "c1cc({0})ncc1{1}",
    "c1nc({0})ncc1{1}",
    "c1c({0})ncnc1{1}",
    "c1c({0})nncc1{1}",
    "c1c({0})occ1{1}",
    "c1c({0})scc1{1}",
    "c1c({0})[nH]cc1{1}",
    "c1c({0})nsc1{1}",
    "c1c({0})noc1{1}",
    "c1nc({0})oc1{1}",
    "c1nc({0})sc1{1}",
    "c1nc({0})[nH]c1{1}",
    "c1c({0})n[nH]c1{1}",
    "c1nn({0})cc1{1}",
    "n1nc({0})oc1{1}",
    "n1nc({0})sc1{1}",
    "c1ccc2c(c1{0})cc[nH]2",
    "c1c({0})ccc2c1nc[nH]2",
    "c1c({0})ccc2c1occ2",
    "c1c({0})ccc2c1ncs2",
    "c1c({0})ccc2c1cccn2",
    "C1CC({0})CCN1{1}",
    "C1CN({0})CCN1{1}",
    "C1CC({0})CC1{1}",
    "C1CC({0})CCC1{1}",
    "C1OC({0})CN(C1){1}",
    "C1CC({0})OC1{1}",
    "C1CC(=O)N({0})C1{1}",
    "C1C({0})SCC1{1}",
    "C1CC1({0}){1}",
    "C1N({0})CC1{1}",
    "C({0})C{1}",
    "C({0}){1}",
    "C(C)({0}){1}",
    "C(C)({0})({2}){1}",
    "C({0})C({2})C{1}",
    "C({0})=C{1}",
    "C({0})#C{1}",
    "O=C({0}){1}",
    "O=C({0})N{1}",
    "O=S(=O)({0}){1}",
    "O=S(=O)({0})N{1}",
    "O=S({0}){1}",
    "S({0}){1}",
    "O({0}){1}",
    "N({0}){1}",
    "N({0})({2}){1}",
    "O=C(N{0})N{1}",
    "O=C(O{0})N{1}",
    "N=C({0})N{1}",
    "C({0})=N{1}",
    "C({0})=NO{1}",
    "S({0})S{1}",
    "S=C({0})N{1}",
)

_SUBSTITUENTS = (
    "C",
    "CC",
    "C(C)C",
    "C8CC8",
    "C=C",
    "C#C",
    "CO",
    "CN",
    "CS",
    "CF",
    "CCl",
    "C(F)F",
    "C(F)(F)F",
    "CC#N",
    "C#N",
    "C=O",
    "C(C)=O",
    "C(=O)O",
    "C(=O)OC",
    "C(N)=O",
    "C(=O)NC",
    "c8ccccc8",
    "Cc8ccccc8",
    "c8ccncc8",
    "CCO",
    "CCN(C)C",
    "CC(C)(C)O",
    "COC",
)
# These bind to carbon only: on nitrogen, oxygen or sulfur they give unstable molecules.
_ON_CARBON = (
    *("F", "Cl", "O", "OC", "OC(C)=O", "OC(F)(F)F", "S", "SC", "S(C)(=O)=O", "S(N)(=O)=O"),
    *("N", "NC", "N(C)C", "NC(C)=O", "NS(C)(=O)=O", "[N+](=O)[O-]"),
)

_CARBON_CORES = frozenset(core for core in _CORES if core.startswith(("c1", "C1CC({0})CC")))

# Side chains of the neutral forms of the twenty amino acids, on the L alpha carbon.
_SIDE_CHAINS = {
    "ALA": "C",
    "ARG": "CCCN=C(N)N",
    "ASN": "CC(N)=O",
    "ASH": "CC(O)=O",
    "CYS": "CS",
    "GLN": "CCC(N)=O",
    "GLH": "CCC(O)=O",
    "HID": "Cc7c[nH]cn7",
    "HIE": "Cc7cnc[nH]7",
    "ILE": "[C@@H](C)CC",
    "LEU": "CC(C)C",
    "LYN": "CCCCN",
    "MET": "CCSC",
    "PHE": "Cc7ccccc7",
    "SER": "CO",
    "THR": "[C@@H](C)O",
    "TRP": "Cc7c[nH]c8ccccc78",
    "TYR": "Cc7ccc(O)cc7",
    "VAL": "C(C)C",
}


def enumerate_fragments() -> list[tuple[str, str]]:
    """(name, SMILES) of every core with every choice of substituents; the name is the SMILES.

    Equal molecules written differently are left for the deduplication by canonical SMILES.
    """
    found: set[str] = set()
    for core in _CORES:
        choices = (*_SUBSTITUENTS, *_ON_CARBON) if core in _CARBON_CORES else _SUBSTITUENTS
        n_places = 1 + ("{1}" in core) + ("{2}" in core)
        pools = [choices, choices, ("C", "F", "CO")][:n_places]
        found.update(core.format(*picks) for picks in product(*pools))
    return [("", smiles) for smiles in sorted(found)]


def enumerate_peptides(n_residues: int) -> list[tuple[str, str]]:
    """(name, SMILES) of all peptides of ``n_residues`` residues, capped with ACE and NME."""
    residues = {name: f"N[C@@H]({chain})C(=O)" for name, chain in _SIDE_CHAINS.items()}
    residues["GLY"] = "NCC(=O)"
    residues["PRO"] = "N6CCC[C@H]6C(=O)"
    peptides = []
    for names in product(sorted(residues), repeat=n_residues):
        body = "".join(residues[name] for name in names)
        peptides.append(("-".join(("ACE", *names, "NME")), f"CC(=O){body}NC"))
    return peptides
