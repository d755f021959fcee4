"""Compare frames of a trajectory with the identity of the molecule at its start."""

import numpy as np

from mace_mm.identity import bonds as rules
from mace_mm.identity.change import Change, Kind
from mace_mm.identity.pairs import Pairs, StrangePairs, is_among
from mace_mm.identity.reference import MolecularIdentity
from mace_mm.identity.stereo import flipped, handedness, sides

# A hydrogen belongs to another atom when its old bond is longer than the new one by this factor,
# both in units of the covalent radii; a proton between two atoms still belongs to the old one.
_MOVED = 1.2
# Their hydrogens make hydrogen bonds, whose distances are no short contacts.
_POLAR = (7, 8, 9, 15, 16, 17, 35, 53)


class MoleculeWatch:
    """Looks at the frames of one trajectory, each against the start.

    What is between two states, a bond of 1.4 times its covalent length for instance, is what it was
    in the frame before (hysteresis): a watch serves one trajectory, in its order.
    """

    def __init__(self, identity: MolecularIdentity) -> None:
        self.identity = identity
        numbers = identity.atomic_numbers
        self._n = numbers.size
        self._radii = rules.bond_radii(numbers)
        self._metal = rules.is_metal(numbers)
        self._hydrogen = numbers == 1
        self._polar = np.isin(numbers, _POLAR)
        self._pairs = StrangePairs(numbers, identity.bonds)
        first, second = identity.bonds[:, 0], identity.bonds[:, 1]
        self._lengths = self._radii[first] + self._radii[second]
        self._set_hosts(first, second)
        self._broken = np.zeros(len(first), dtype=bool)
        self._made = np.empty(0, dtype=np.int64)
        self._moved_to = np.full(self._n, -1, dtype=np.int64)
        self._inverted = np.zeros(len(identity.volumes), dtype=bool)
        self._turned = np.zeros(len(identity.cosines), dtype=bool)

    def _set_hosts(self, first: np.ndarray, second: np.ndarray) -> None:
        """The bond of every hydrogen that has one, to a heavier atom."""
        self._host_bond = np.full(self._n, -1, dtype=np.int64)
        count = np.bincount(np.concatenate([first, second]), minlength=self._n)
        for light, heavy in ((first, second), (second, first)):
            proton = self._hydrogen[light] & ~self._hydrogen[heavy] & (count[light] == 1)
            self._host_bond[light[proton]] = np.flatnonzero(proton)

    def look(self, positions: np.ndarray, cell: np.ndarray | None = None) -> list[Change]:
        """What differs from the start, the worst first.

        Args:
            positions: (n_atoms, 3) Å of the identity's atoms.
            cell: (3, 3) rows, Å, of this frame; None in vacuum.
        """
        if not np.isfinite(positions).all():
            return [self._not_finite(np.flatnonzero(~np.isfinite(positions).all(axis=1)))]
        pairs = self.identity.bonds
        vectors = rules.minimum_image(positions[pairs[:, 1]] - positions[pairs[:, 0]], cell)
        lengths = np.sqrt((vectors**2).sum(axis=1))
        ratio = lengths / self._lengths
        close = self._pairs.find(positions, cell)
        changes: list[Change] = []
        torn: set[int] = set()
        usual = not close.first.size and not self._is_changed()
        if not usual or not ((ratio > rules.COMPRESSED) & (ratio < rules.BROKEN)).all():
            changes, torn = self._constitution(close, ratio, lengths)
        places = self._configuration(positions, cell, torn)
        # Contacts are the mildest and come last.
        mild = [change for change in changes if change.kind == Kind.SHORT_CONTACT]
        return [change for change in changes if change not in mild] + places + mild

    def _is_changed(self) -> bool:
        """Whether the frame before was not as the start."""
        return bool(self._broken.any() or self._made.size or (self._moved_to >= 0).any())

    def _constitution(
        self, close: Pairs, ratio: np.ndarray, lengths: np.ndarray
    ) -> tuple[list[Change], set[int]]:
        """What happened to bonds, and the atoms whose bonds are not those of the start."""
        pairs = self.identity.bonds
        close_ratio = close.distance / (self._radii[close.first] + self._radii[close.second])
        moved = self._protons(close, close_ratio, ratio)
        self._broken = ratio > np.where(self._broken, rules.HEALED, rules.BROKEN)
        broken = self._broken.copy()
        broken[self._host_bond[moved[:, 0]]] = False
        made = self._made_pairs(close, close_ratio)
        changes = self._broken_bonds(broken, lengths)
        changes += [self._made_bond(close, int(k)) for k in np.flatnonzero(made)]
        changes += [self._proton(int(h), int(new_host)) for h, new_host in moved]
        torn = np.concatenate([pairs[broken].reshape(-1), close.first[made], close.second[made]])
        # Where a bond changed its atoms lie close to others: nothing is to be added to that.
        busy = np.isin(np.arange(self._n), np.concatenate([torn, moved[:, 0]]))
        changes += self._contacts(close, busy, ratio, lengths)
        return changes, set(torn.tolist())

    def _not_finite(self, lost: np.ndarray) -> Change:
        return Change(
            kind=Kind.NOT_FINITE,
            key="not_finite",
            text=f"the positions of {lost.size} atoms are not numbers, the first is "
            f"{self.identity.named(int(lost[0]))}",
            atoms=tuple(self.identity.indices[lost].tolist()),
        )

    def _protons(self, close: Pairs, close_ratio: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        """Hydrogens that belong to another atom now, with that atom: (n_moved, 2)."""
        best = np.full(self._n, np.inf)
        target = np.full(self._n, -1, dtype=np.int64)
        for light, heavy in ((close.first, close.second), (close.second, close.first)):
            held = (self._host_bond[light] >= 0) & ~self._hydrogen[heavy] & ~self._metal[heavy]
            # The nearest one comes last and stays.
            order = np.flatnonzero(held)[np.argsort(-close_ratio[held], kind="stable")]
            order = order[close_ratio[order] < best[light[order]]]
            best[light[order]] = close_ratio[order]
            target[light[order]] = heavy[order]
        protons = np.flatnonzero(self._host_bond >= 0)
        old, new = ratio[self._host_bond[protons]], best[protons]
        gone = (new < rules.MADE) & (old > _MOVED * new)
        gone |= (self._moved_to[protons] >= 0) & (new < rules.PARTED) & (old > new)
        self._moved_to[protons] = np.where(gone, target[protons], -1)
        return np.stack([protons[gone], target[protons[gone]]], axis=1)

    def _made_pairs(self, close: Pairs, close_ratio: np.ndarray) -> np.ndarray:
        """(n_close,) bool: bonds that the reference does not have, hydrogens that move aside."""
        both = self._hydrogen[close.first] & self._hydrogen[close.second]
        proton = (self._host_bond[close.first] >= 0) | (self._host_bond[close.second] >= 0)
        code = close.first * self._n + close.second
        limit = np.where(both, rules.MADE_HYDROGENS, rules.MADE)
        parted = np.where(both, rules.PARTED_HYDROGENS, rules.PARTED)
        made = close_ratio < np.where(is_among(self._made, code), parted, limit)
        made &= ~self._metal[close.first] & ~self._metal[close.second] & (both | ~proton)
        self._made = np.unique(code[made])
        return made

    def _broken_bonds(self, broken: np.ndarray, lengths: np.ndarray) -> list[Change]:
        return [
            self._change(
                Kind.BOND_BROKEN,
                self.identity.bonds[k],
                f"bond {{}} broke: {lengths[k]:.2f} Å",
            )
            for k in np.flatnonzero(broken)
        ]

    def _made_bond(self, close: Pairs, k: int) -> Change:
        pair = np.array([close.first[k], close.second[k]])
        return self._change(
            Kind.BOND_MADE, pair, f"a bond formed between {{}}: {close.distance[k]:.2f} Å"
        )

    def _proton(self, hydrogen: int, target: int) -> Change:
        bond = self.identity.bonds[self._host_bond[hydrogen]]
        host = int(bond.sum()) - hydrogen
        named = self.identity.named
        return Change(
            kind=Kind.PROTON_MOVED,
            key=f"{Kind.PROTON_MOVED} {self._keys([hydrogen, host, target])}",
            text=f"proton {named(hydrogen)} moved from {named(host)} to {named(target)}",
            atoms=tuple(self.identity.indices[[hydrogen, host, target]].tolist()),
        )

    def _configuration(
        self, positions: np.ndarray, cell: np.ndarray | None, torn: set[int]
    ) -> list[Change]:
        """Inverted centers and turned double bonds, where the bonds around them still exist."""
        of = self.identity
        changes = []
        if len(of.volumes):
            volumes = handedness(of.stereo.centers, positions, cell)
            self._inverted = flipped(volumes, of.volumes, self._inverted)
            if self._inverted.any():
                changes += self._inverted_centers(torn)
        if len(of.cosines):
            cosines = sides(of.stereo.double_bonds, positions, cell)
            self._turned = flipped(cosines, of.cosines, self._turned)
            if self._turned.any():
                changes += self._turned_double_bonds(torn)
        return changes

    def _inverted_centers(self, torn: set[int]) -> list[Change]:
        centers = self.identity.stereo.centers[self._inverted]
        return [
            self._change(Kind.STEREO_INVERTED, around[:1], "stereocenter {} is inverted")
            for around in centers
            if torn.isdisjoint(around.tolist())
        ]

    def _turned_double_bonds(self, torn: set[int]) -> list[Change]:
        changes = []
        for k in np.flatnonzero(self._turned):
            around = self.identity.stereo.double_bonds[k]
            if torn.isdisjoint(around.tolist()):
                way = "cis to trans" if self.identity.cosines[k] > 0.0 else "trans to cis"
                text = f"double bond {{}} turned from {way}"
                changes.append(self._change(Kind.STEREO_INVERTED, around[1:3], text))
        return changes

    def _contacts(
        self, close: Pairs, busy: np.ndarray, ratio: np.ndarray, lengths: np.ndarray
    ) -> list[Change]:
        """Bonds that are far too short, and atoms too close without a bond, of atoms not busy."""
        # A hydrogen bond: a hydrogen held by a polar atom, and the polar atom that accepts it.
        free = self._polar | self._held_by_polar()
        shared = free[close.first] & free[close.second]
        shared &= self._hydrogen[close.first] != self._hydrogen[close.second]
        metal = self._metal[close.first] | self._metal[close.second]
        short = self._pairs.in_contact(close) & ~shared & ~metal
        short &= ~busy[close.first] & ~busy[close.second]
        pairs = [
            (np.array([close.first[k], close.second[k]]), close.distance[k])
            for k in np.flatnonzero(short)
        ]
        pairs += [
            (self.identity.bonds[k], lengths[k]) for k in np.flatnonzero(ratio < rules.COMPRESSED)
        ]
        return [
            self._change(Kind.SHORT_CONTACT, pair, f"{{}} are only {distance:.2f} Å apart")
            for pair, distance in pairs
        ]

    def _held_by_polar(self) -> np.ndarray:
        """(n_atoms,) bool: hydrogens that the start bonds to a polar atom."""
        held = np.zeros(self._n, dtype=bool)
        protons = np.flatnonzero(self._host_bond >= 0)
        hosts = self.identity.bonds[self._host_bond[protons]].sum(axis=1) - protons
        held[protons] = self._polar[hosts]
        return held

    def _change(self, kind: Kind, atoms: np.ndarray, text: str) -> Change:
        local = [int(k) for k in atoms]
        return Change(
            kind=kind,
            key=f"{kind} {self._keys(local)}",
            text=text.format(self.identity.named(*local)),
            atoms=tuple(self.identity.indices[local].tolist()),
        )

    def _keys(self, local: list[int]) -> str:
        return " ".join(str(k) for k in self.identity.indices[local])
