"""The training loop: steps, epochs, stages, validation and checkpoints, exactly resumable."""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mace_mm.errors import CheckpointError, TrainingError
from mace_mm.model.potential import Potential
from mace_mm.training.config import StageConfig, TrainingConfig
from mace_mm.training.fast.potential import fast_potential
from mace_mm.training.frames import TrainBatch, WeightedFrames, make_train_loader
from mace_mm.training.run.averaging import WeightAverage
from mace_mm.training.run.checkpoint import (
    Checkpoint,
    checkpoint_path,
    latest_checkpoint,
    remove_old,
    save_checkpoint,
)
from mace_mm.training.run.checks import check_processes, check_same_run
from mace_mm.training.run.fabric import Fabric
from mace_mm.training.run.loss import Loss, count_labels
from mace_mm.training.run.metrics import Errors, ErrorSums
from mace_mm.training.run.optimizer import learning_rate, make_optimizer
from mace_mm.training.run.progress import Progress, write_history
from mace_mm.training.run.reporter import Reporter, SilentReporter
from mace_mm.training.start.setup import DTYPES, Frames, build_potential, restore_potential

_LOG = logging.getLogger(__name__)


class TrainingLoop:
    """One run, from the data to its last checkpoint.

    Args:
        config: the run.
        frames: its data.
        base: the trained potential of `config.fine_tune`.
        fabric: launched; decides device and processes.
        reporter: told about steps and epochs, in the first process.
    """

    def __init__(
        self,
        config: TrainingConfig,
        frames: Frames,
        *,
        fabric: Fabric,
        base: Potential | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.reporter = reporter if reporter is not None else SilentReporter()
        self.folder = Path(config.output)
        check_processes(config, fabric.world_size)
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint is None:
            potential = build_potential(config, frames, base)
        else:
            check_same_run(checkpoint, config, self.folder)
            potential = restore_potential(config, checkpoint)
        self.potential = potential.to(fabric.device)
        # Reads the weights of the potential, which stays what is saved.
        self.predict = fast_potential(self.potential) or self.potential
        self.parameters = list(self.potential.parameters())
        self.progress = Progress()
        self.optimizer = make_optimizer(
            self.potential, config.optimizer, config.stages[0].learning_rate
        )
        self._start_stage()
        self.best: list[torch.Tensor] = []
        if checkpoint is not None:
            self._restore(checkpoint)
        self.train_loader, self.sampler = self._loader(frames.train, shuffle=True)
        self.validation_loader, _ = self._loader(frames.validation, shuffle=False)
        self._last_save = time.monotonic()

    def run(self) -> None:
        """Train to the end; a checkpoint is written before the first step.

        Raises:
            TrainingError: the loss is no longer a number.
            CheckpointError: a checkpoint cannot be written.
        """
        if self.progress.step == 0:
            self._save()
        while not self.progress.finished:
            stage = self.config.stages[self.progress.stage]
            self._epoch(stage)
            self._end_epoch(stage)
            self._save()

    def _epoch(self, stage: StageConfig) -> None:
        progress = self.progress
        loss = Loss(stage.loss)
        self.sampler.set_epoch(progress.epoch, progress.batch)
        sums = ErrorSums(torch.tensor(progress.train_sums, dtype=torch.float64))
        n_batches = len(self.sampler) + progress.batch
        self.potential.train()
        for item in self._batches(self.train_loader):
            self._set_rate(stage, n_batches)
            sums.add(self._step(loss, item))
            progress.step += 1
            progress.stage_step += 1
            progress.batch += 1
            progress.train_sums = sums.values.tolist()
            self.reporter.step(progress, n_batches)
            if time.monotonic() - self._last_save > 60.0 * self.config.run.checkpoint_minutes:
                self._save()

    def _step(self, loss: Loss, item: TrainBatch) -> torch.Tensor:
        """One optimizer step; returns the sums of the whole step over all processes."""
        counts = self._sum(count_labels(item))
        self.optimizer.zero_grad(set_to_none=True)
        prediction = self.predict(item.batch.graph, item.batch.head)
        terms = loss.terms(prediction, item)
        value = loss.total(terms, counts)
        value.backward()
        sums = self._sum(ErrorSums.of(prediction, item, terms))
        norm = self._reduce_gradients()
        if not (math.isfinite(float(sums.sum())) and math.isfinite(norm)):
            raise TrainingError(
                f"the loss or its gradient is not a number at step {self.progress.step} "
                f"(loss {float(value.detach()):g}, gradient {norm:g}): lower the learning rate, or "
                "look for frames with very large forces"
            )
        self.optimizer.step()
        self.average.after_step()
        return sums

    def _reduce_gradients(self) -> float:
        """Add up gradients over processes and clip them; returns their norm before clipping."""
        learning = [p for p in self.parameters if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in learning if p.grad is not None]
        if self.fabric.world_size > 1:
            flat = self._sum(torch.cat([g.flatten() for g in gradients]))
            for gradient, part in zip(
                gradients, flat.split([g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))
        limit = self.config.optimizer.clip_norm
        return float(torch.nn.utils.clip_grad_norm_(learning, limit or math.inf))

    def _set_rate(self, stage: StageConfig, n_batches: int) -> None:
        rate = learning_rate(
            stage.schedule,
            stage.learning_rate,
            step=self.progress.stage_step,
            n_steps=stage.epochs * n_batches,
            epoch=self.progress.stage_epoch,
            n_reductions=self.progress.reductions,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _end_epoch(self, stage: StageConfig) -> None:
        progress = self.progress
        self.average.after_epoch()
        loss = Loss(stage.loss)
        train = ErrorSums(torch.tensor(progress.train_sums, dtype=torch.float64)).errors(loss)
        with self.average.applied():
            validation = self.validate(loss)
        progress.epoch += 1
        progress.stage_epoch += 1
        progress.batch = 0
        progress.train_sums = [0.0] * ErrorSums.SIZE
        patience = stage.schedule.patience if stage.schedule.kind == "plateau" else None
        if progress.observe(validation.loss, patience):
            self.best = [value.clone() for value in self.average.values]
        row = self._row(train, validation)
        progress.history.append(row)
        waited_out = stage.early_stopping is not None and (
            progress.since_best >= stage.early_stopping
        )
        if waited_out or progress.stage_epoch >= stage.epochs:
            if waited_out:
                _LOG.info("stage %d stops early: no better epoch", progress.stage)
            if progress.stage + 1 == len(self.config.stages):
                progress.finished = True
            else:
                progress.next_stage()
                self._start_stage()
        if self.fabric.is_global_zero:
            write_history(self.folder / "history.csv", progress.history)
            self.fabric.log_dict({k: v for k, v in row.items()}, step=progress.step)
        self.reporter.epoch(row)

    def validate(self, loss: Loss) -> Errors:
        """Return the errors on the validation frames with the weights as they are."""
        sums = ErrorSums()
        self.potential.eval()
        for item in self._batches(self.validation_loader):
            prediction = self.predict(item.batch.graph, item.batch.head)
            sums.add(ErrorSums.of(prediction, item, loss.terms(prediction, item)))
        return ErrorSums(self._sum(sums.values)).errors(loss)

    def _row(self, train: Errors, validation: Errors) -> dict[str, float]:
        row: dict[str, float] = {
            "epoch": self.progress.epoch,
            "stage": self.progress.stage,
            "step": self.progress.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        for name, errors in (("train", train), ("validation", validation)):
            row[f"{name}_loss"] = errors.loss
            row[f"{name}_energy_mae"] = errors.energy_mae
            row[f"{name}_energy_rmse"] = errors.energy_rmse
            row[f"{name}_forces_mae"] = errors.forces_mae
            row[f"{name}_forces_rmse"] = errors.forces_rmse
        return row

    def _start_stage(self) -> None:
        stage = self.config.stages[self.progress.stage]
        self.average = WeightAverage(self.parameters, stage.averaging, stage.ema_decay)

    def _loader(self, frames: WeightedFrames, shuffle: bool):  # type: ignore[no-untyped-def]
        network = self.potential.network.config
        return make_train_loader(
            frames,
            self.config.data,
            elements=network.atomic_numbers,
            cutoff=network.r_max,
            heads=network.heads,
            dtype=DTYPES[self.config.run.precision],
            seed=self.config.seed,
            shuffle=shuffle,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def _batches(self, loader) -> Iterator[TrainBatch]:  # type: ignore[no-untyped-def]
        device = self.fabric.device
        for item in loader:
            yield TrainBatch(item.batch.to(device), item.weight.to(device))

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.fabric.world_size == 1:
            return values
        return self.fabric.all_reduce(values, reduce_op="sum")  # type: ignore[return-value]

    def _save(self) -> None:
        self._last_save = time.monotonic()
        if not self.fabric.is_global_zero:
            return
        self.progress.average_updates = self.average.n_updates
        save_checkpoint(
            checkpoint_path(self.folder, self.progress.step),
            Checkpoint(
                config=self.config.model_dump(mode="json"),
                model_config=self.potential.network.config.to_dict(),
                weights=self.potential.state_dict(),
                average=self.average.values,
                best=self.best,
                optimizer=self.optimizer.state_dict(),
                rng=torch.get_rng_state(),
                progress=self.progress.to_dict(),
            ),
        )
        remove_old(self.folder, self.config.run.keep_checkpoints)

    def _restore(self, checkpoint: Checkpoint) -> None:
        device = self.fabric.device
        self.progress = Progress.from_dict(checkpoint.progress)
        self._start_stage()
        if len(checkpoint.average) != len(self.parameters):
            raise CheckpointError("the checkpoint's average does not fit its network")
        self.average.values = [v.to(device) for v in checkpoint.average]
        self.average.n_updates = self.progress.average_updates
        self.best = [v.to(device) for v in checkpoint.best]
        self.optimizer.load_state_dict(checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng)
        _LOG.info("continuing after step %d", self.progress.step)
