"""A force is copied and stored with the model's weights, not with what was made of them."""

import copy
import io

import openmm
import pytest
import torch
from openmmml import MLPotential

from mace_mm.archive.open_model import open_model
from mace_mm.errors import ArchiveError
from mace_mm.evaluate import form_source
from mace_mm.evaluate.fold import fold
from mace_mm.evaluate.form_source import FormSource
from tests.support.openmm_systems import METHANOL, topology_of

pytestmark = pytest.mark.plain


@pytest.fixture(params=["single", "double"])
def source_and_form(request):
    archive = open_model()
    folded = fold(archive.potential, precision=request.param, elements=[1, 6, 8])
    return FormSource(archive, folded), folded.form


def test_a_copy_in_the_same_process_shares_the_form(source_and_form):
    source, form = source_and_form
    assert copy.deepcopy(source).form().data_ptr() == form.data_ptr()


def test_another_process_makes_the_same_form(source_and_form, monkeypatch):
    source, form = source_and_form
    stored = source.__getstate__()
    assert len(stored["weights"]) < form.numel() / 3
    monkeypatch.setattr(form_source, "_forms", {})
    again = copy.deepcopy(source)
    assert torch.equal(again.form(), form)
    assert again.__getstate__() == stored


def test_changed_weights_are_refused(source_and_form, monkeypatch):
    source, _ = source_and_form
    monkeypatch.setattr(form_source, "_forms", {})
    weights = io.BytesIO()
    state = open_model().potential.state_dict()
    torch.save({**state, "network.scale": 1.5 * state["network.scale"]}, weights)
    stored = {**source.__getstate__(), "weights": weights.getvalue()}
    changed = FormSource.__new__(FormSource)
    changed.__setstate__(stored)
    with pytest.raises(ArchiveError, match="do not match their hash"):
        changed.form()


def test_a_system_in_double_precision_is_as_small_as_in_single():
    sizes = []
    for precision in ("single", "double"):
        system = MLPotential("mace").createSystem(
            topology_of(METHANOL[0]), backend="pythonforce", precision=precision
        )
        sizes.append(len(openmm.XmlSerializer.serialize(system)))
    assert max(sizes) < 2.5e6
    assert sizes[1] < 1.01 * sizes[0]
