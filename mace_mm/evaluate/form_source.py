"""What an evaluation form is made from, for those who carry it elsewhere.

A form is many times larger than the weights behind it, up to 50 times in double precision, and
OpenMM copies a force through its pickle in hexadecimal digits, byte by byte: seconds for a form.
"""

import io
import weakref
from typing import Any

import torch

from mace_mm.archive.archive import Archive, smallest_dtype, weights_hash
from mace_mm.errors import ArchiveError
from mace_mm.evaluate.fold import Folded, fold
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

# Forms in use, so that a copy in the same process shares the form of its original.
_forms: weakref.WeakValueDictionary[tuple, torch.Tensor] = weakref.WeakValueDictionary()


class FormSource:
    """Everything that a form is folded from. It pickles without the form."""

    def __init__(self, archive: Archive, folded: Folded) -> None:
        """Args: the model, and a form that was folded from it."""
        self._key = (archive.sha256, folded.atomic_numbers, folded.precision)
        self._stored: dict[str, Any] = {}  # what is pickled, when it was asked for
        self._potential: Potential | None = archive.potential
        _forms[self._key] = folded.form

    def form(self) -> torch.Tensor:
        """The form, on the CPU: the one in use in this process, or a new one.

        Raises:
            ArchiveError: the weights are not those that were stored.
        """
        form = _forms.get(self._key)
        if form is None:
            _, elements, precision = self._key
            form = fold(self._network(), precision=precision, elements=elements).form
            _forms[self._key] = form
        return form

    def _network(self) -> Potential:
        if self._potential is None:
            potential = Potential(MACE(MACEConfig.from_dict(self._stored["config"]))).double()
            weights = io.BytesIO(self._stored["weights"])
            potential.load_state_dict(torch.load(weights, weights_only=True))
            if weights_hash(potential) != self._key[0]:
                raise ArchiveError("a stored force is damaged: its weights do not match their hash")
            self._potential = potential.eval().requires_grad_(False)
        return self._potential

    def __getstate__(self) -> dict[str, Any]:
        if not self._stored:
            potential = self._network()
            weights = io.BytesIO()
            torch.save(smallest_dtype(potential).state_dict(), weights)
            config = potential.network.config.to_dict()
            self._stored = {"key": self._key, "config": config, "weights": weights.getvalue()}
        return self._stored

    def __setstate__(self, stored: dict[str, Any]) -> None:
        self._key, self._stored, self._potential = stored["key"], stored, None
