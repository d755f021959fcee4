"""The settings of a training run: one YAML file, checked before anything is computed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mace_mm.settings import SafeName


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FilesConfig(_Section):
    """One file of frames.

    Attributes:
        path: `.xyz` or `.extxyz` (extended XYZ), `.h5` or `.hdf5` (SPICE layout), `.db` or `.json`
            (ASE database).
        head: the readout that learns these frames.
        weight: factor on every frame's loss.
        energy_key, forces_key, stress_key: names of the labels in the file, if not those of its
            format; in SPICE's layout forces_key is the gradient.
        subsets: keep only these subsets; all if not given.
        elements: keep only frames of these elements (symbols); all if not given.
        max_frames: a random selection of this many; all if not given.
        repeat: show every frame this many times in an epoch.
        own_batches: never put these frames into a batch with those of other files. For frames whose
            gradients are far larger, such as atoms at very short distance: clipping would leave
            nothing of the others. The scale and the mean number of neighbors are measured without
            them.
        train_only: never set frames of this file aside for validation, such as frames with labels
            of a cheaper origin.
    """

    path: str
    head: SafeName = "default"
    weight: float = Field(default=1.0, gt=0)
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    subsets: tuple[str, ...] | None = None
    elements: tuple[str, ...] | None = None
    max_frames: int | None = Field(default=None, gt=0)
    repeat: int = Field(default=1, gt=0)
    own_batches: bool = False
    train_only: bool = False


class DataConfig(_Section):
    """What is learned from.

    Attributes:
        train: files of frames.
        validation: files of frames; with none, a part of the training frames is set aside.
        validation_fraction: that part.
        split_by: set aside whole "molecule"s, "scaffold"s or "formula"s, or single "frame"s.
        subset_weights: factor on the loss of the frames of a subset.
        batch_size: frames in a step, over all processes.
        max_atoms: close a batch rather than exceed this many atoms.
        n_workers: processes that build neighbor lists.
        level_of_theory, description, licence: written into the archive.
    """

    train: tuple[FilesConfig, ...] = Field(min_length=1)
    validation: tuple[FilesConfig, ...] = ()
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    split_by: Literal["molecule", "scaffold", "formula", "frame"] = "molecule"
    subset_weights: dict[str, float] = {}
    batch_size: int = Field(default=8, gt=0)
    max_atoms: int | None = Field(default=None, gt=0)
    n_workers: int = Field(default=0, ge=0)
    level_of_theory: str = "unknown"
    description: str = "unknown"
    licence: str = "unknown"


class ModelConfig(_Section):
    """The network, for training from scratch; see `MACEConfig` for the meaning.

    Attributes:
        elements: atomic numbers; those of the data if not given.
        avg_num_neighbors, scale: measured on the data if not given.
    """

    elements: tuple[int, ...] | None = None
    r_max: float = Field(default=4.5, gt=0)
    channels: int = Field(default=32, gt=0)
    hidden_l_max: int = Field(default=0, ge=0, le=2)
    l_max: int = Field(default=3, ge=0, le=3)
    correlation: tuple[int, ...] = (3, 3)
    n_radial: int = Field(default=8, gt=0)
    cutoff_p: int = Field(default=5, gt=0)
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_mlp: int = Field(default=16, gt=0)
    residual_first: bool = False
    pair_repulsion: bool = True
    distance_transform: Literal["agnesi"] | None = None
    avg_num_neighbors: float | None = Field(default=None, gt=0)
    scale: float | None = Field(default=None, gt=0)


class FineTuneConfig(_Section):
    """Start from a trained model.

    Attributes:
        model: an archive, a training checkpoint or a published `.model`, or the name
            of a bundled model.
        head: which head of a published model with several.
        elements: symbols of those to keep; all of the model's if not given.
        channels: of the new network. More than the model's: it starts with equal energies. Fewer:
            those stay that move the forces of the training frames most.
        hidden_l_max: of the new network, not less than the model's; it starts with equal energies.
        freeze: parts that do not learn: "embedding", "radial", "layers.0", ..., "readouts".
        refit_atomic_energies: fit new isolated-atom energies for the new level of theory, so that
            the model's energies agree with the labels on average, and only differences are left
            to learn.
        replay: frames of the base data set that keep old knowledge; give them a head of their own
            when their level of theory is another.
    """

    model: str
    head: str | None = None
    elements: tuple[str, ...] | None = None
    channels: int | None = Field(default=None, gt=0)
    hidden_l_max: int | None = Field(default=None, ge=0, le=2)
    freeze: tuple[str, ...] = ()
    refit_atomic_energies: bool = True
    replay: tuple[FilesConfig, ...] = ()


class LossConfig(_Section):
    """What is minimized; energies per atom.

    Attributes:
        kind: "mse", "mae" (norm of each force vector), "huber" or "universal".
        energy, forces, stress: weights.
        relative_energy: weight of energy differences between frames of one molecule, per atom.
        huber_delta: where the Huber losses turn linear: eV for energies per atom, eV/Å for
            forces.
    """

    kind: Literal["mse", "mae", "huber", "universal"] = "mse"
    energy: float = Field(default=1.0, ge=0)
    forces: float = Field(default=100.0, ge=0)
    stress: float = Field(default=0.0, ge=0)
    relative_energy: float = Field(default=0.0, ge=0)
    huber_delta: float = Field(default=0.01, gt=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        if self.energy + self.forces + self.stress + self.relative_energy == 0:
            raise ValueError("all weights of the loss are zero")
        return self


class ScheduleConfig(_Section):
    """How the learning rate falls.

    Attributes:
        kind: "constant", "cosine" (to `final_factor` at the end of the stage), "exponential"
            (by `gamma` each epoch) or "plateau" (by `gamma` after `patience` epochs without a
            better validation loss).
        warmup_steps: rise linearly over this many steps.
    """

    kind: Literal["constant", "cosine", "exponential", "plateau"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    final_factor: float = Field(default=0.01, ge=0, le=1)
    gamma: float = Field(default=0.8, gt=0, le=1)
    patience: int = Field(default=10, gt=0)


class StageConfig(_Section):
    """A part of the training with its own loss, rate and averaging.

    Attributes:
        epochs: passes over the data.
        learning_rate: at the start of the stage, after the warm-up.
        loss: what is minimized.
        schedule: how the rate falls.
        averaging: "ema" (exponential average), "swa" (equal-weight average of the weights at the
            end of every epoch of this stage) or "none"; validation and archive use the average.
        ema_decay: of the exponential average, per step.
        early_stopping: end the stage after this many epochs without a better validation loss.
    """

    epochs: int = Field(gt=0)
    learning_rate: float = Field(default=0.01, gt=0)
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    averaging: Literal["ema", "swa", "none"] = "ema"
    ema_decay: float = Field(default=0.99, gt=0, lt=1)
    early_stopping: int | None = Field(default=None, gt=0)


class OptimizerConfig(_Section):
    """Attributes:
    kind: "amsgrad", "adamw" or "soap"; soap learns in fewer steps, with beta1 0.95, beta2 0.99.
    weight_decay: on the linear maps and contraction weights only.
    clip_norm: largest norm of the gradient; None to let it be.
    """

    kind: Literal["amsgrad", "adamw", "soap"] = "amsgrad"
    weight_decay: float = Field(default=5e-7, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    clip_norm: float | None = Field(default=10.0, gt=0)


class RunConfig(_Section):
    """Attributes:
    precision: of the weights, "float32" or "float64".
    accelerator, devices: as Lightning Fabric takes them; under torchrun its processes count.
    threads: of the processor, a process; None: what torch chooses. The last bits depend on it.
    checkpoint_minutes: time between checkpoints within an epoch.
    keep_checkpoints: how many of the newest stay, at least 2.
    tensorboard: also write TensorBoard files.
    deterministic: refuse operations that are not reproducible (GPU).
    """

    precision: Literal["float32", "float64"] = "float32"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = Field(default=1, gt=0)
    threads: int | None = Field(default=None, gt=0)
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    keep_checkpoints: int = Field(default=3, ge=2)
    tensorboard: bool = False
    deterministic: bool = False


class TrainingConfig(_Section):
    """Everything that decides a run.

    Attributes:
        name: of the model in the archive.
        output: folder of checkpoints, history and archive.
        seed: of initial weights, order of frames and selections.
        atomic_energies: "fit"; "isolated" (frames of one atom in the training data); or energies
            in eV by element symbol; or by head, then by element symbol.
    """

    name: SafeName = "model"
    output: str
    seed: int = Field(default=0, ge=0)
    data: DataConfig
    atomic_energies: Literal["fit", "isolated"] | dict[str, float] | dict[str, dict[str, float]] = (
        "fit"
    )
    model: ModelConfig | None = None
    fine_tune: FineTuneConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _one_start(self) -> "TrainingConfig":
        if self.model is not None and self.fine_tune is not None:
            raise ValueError("give either model or fine_tune, not both")
        return self

    def heads(self) -> tuple[str, ...]:
        """Names of the heads in the order they first occur in the data."""
        files = [*self.data.train, *self.data.validation]
        if self.fine_tune is not None:
            files += self.fine_tune.replay
        return tuple(dict.fromkeys(f.head for f in files))
