"""Copy a System that may hold TorchForces.

The openmm-torch 1.5 wheel writes a TorchForce to XML, but crashes the process when it reads one
back, and OpenMM copies through XML. So TorchForces are taken out of the XML and made anew from the
compiled module it contains.
"""

import copy
import importlib
import xml.etree.ElementTree as ET

import openmm

from mace_mm.evaluate.compile import from_bytes


def copy_system(system: openmm.System) -> openmm.System:
    """A deep copy. Forces that hold compiled modules come last in it."""
    text = openmm.XmlSerializer.serialize(system)
    if 'type="TorchForce"' not in text:
        return copy.deepcopy(system)
    root = ET.fromstring(text)
    forces = root.find("Forces")
    if forces is None:
        return copy.deepcopy(system)
    held = [node for node in forces if _holds_torch(node)]
    for node in held:
        forces.remove(node)
    copied = openmm.XmlSerializer.deserialize(ET.tostring(root, encoding="unicode"))
    for node in held:
        copied.addForce(_make(node))
    return copied


def copy_force(force: openmm.Force) -> openmm.Force:
    """A deep copy of one force."""
    node = ET.fromstring(openmm.XmlSerializer.serialize(force))
    return _make(node) if _holds_torch(node) else copy.deepcopy(force)


def _holds_torch(node: ET.Element) -> bool:
    return node.get("type") == "TorchForce" or any(
        inner.get("type") == "TorchForce" for inner in node.iter("Force")
    )


def _make(node: ET.Element) -> openmm.Force:
    """The force that a node of the XML describes."""
    if node.get("type") == "TorchForce":
        return _make_torch_force(node)
    variables = node.find("CollectiveVariables")
    taken = []
    if node.get("type") == "CustomCVForce" and variables is not None:
        for variable in list(variables):
            inner = variable.find("Force")
            if inner is not None and _holds_torch(inner):
                variables.remove(variable)
                taken.append((variable.get("name"), inner))
    force = openmm.XmlSerializer.deserialize(ET.tostring(node, encoding="unicode"))
    for name, inner in taken:
        force.addCollectiveVariable(name, _make(inner))
    return force


def _make_torch_force(node: ET.Element) -> openmm.Force:
    module = from_bytes(bytes.fromhex(node.attrib["encodedFileContents"]))
    force = importlib.import_module("openmmtorch").TorchForce(module)
    force.setForceGroup(int(node.attrib["forceGroup"]))
    force.setUsesPeriodicBoundaryConditions(node.attrib["usesPeriodic"] == "1")
    force.setOutputsForces(node.attrib["outputsForces"] == "1")
    if "name" in node.attrib:
        force.setName(node.attrib["name"])
    for parameter in node.findall("GlobalParameters/Parameter"):
        force.addGlobalParameter(parameter.attrib["name"], float(parameter.attrib["default"]))
    for parameter in node.findall("ParameterDerivatives/Parameter"):
        force.addEnergyParameterDerivative(parameter.attrib["name"])
    for item in node.findall("Properties/Property"):
        force.setProperty(item.attrib["name"], item.attrib["value"])
    return force
