"""The exceptions of mace_mm: every message says what was wanted and what was got."""


class MaceMMError(Exception):
    """Base of every error that mace_mm raises on purpose."""


class ConfigError(MaceMMError, ValueError):
    """A setting, option or configuration file that cannot be used."""


class InputError(MaceMMError, ValueError):
    """A molecule, topology or array that cannot be evaluated."""


class ElementError(InputError):
    """An element that the model was not made for, or an atom without one."""


class GeometryError(InputError):
    """Positions or a cell that are not physical: NaN, coincident atoms, a singular cell."""


class ChargeError(InputError, ConfigError):
    """A charge that the model was not trained for, or statements about it that disagree."""


class DataError(MaceMMError, ValueError):
    """A data file or a labelled frame that is damaged, incomplete or in the wrong unit."""


class ArchiveError(MaceMMError):
    """A model file that is missing, damaged, foreign or of a newer format."""


class CheckpointError(MaceMMError):
    """A training checkpoint that is missing, damaged, foreign, newer, or cannot be written."""


class TrainingError(MaceMMError):
    """A training run that cannot go on, because the loss is no longer a number."""


class UnsupportedModelError(MaceMMError):
    """A published model that uses features this package does not implement."""


class BackendError(MaceMMError):
    """A backend, engine, device or precision that is unknown or not available here."""


class DependencyError(MaceMMError, ImportError):
    """An optional package is needed and not installed."""


class RunStoppedError(MaceMMError):
    """A run that was stopped on request because something happened in it."""
