"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data import TrainingPairs, display_images, test_datasets, training_datasets
from fastmunit.data.background import Background
from fastmunit.data.sources import GivenImages
from fastmunit.errors import DataError, FastmunitError, RankError, TrainingError
from fastmunit.runs.callbacks import Callback, Callbacks, Status
from fastmunit.runs.checkpoints import checkpoint, config_changes, resume_state
from fastmunit.runs.checkpoints.best import Best, write_best
from fastmunit.runs.checkpoints.run_folder import RunFolder, with_absolute_paths
from fastmunit.runs.device import describe_device
from fastmunit.runs.evaluations import NO_IMPROVEMENT, Evaluations
from fastmunit.runs.evaluator import Evaluator
from fastmunit.runs.failures import explained
from fastmunit.runs.pace import Pace
from fastmunit.runs.ranks import FAILED, Ranks
from fastmunit.runs.reports.image_grid import sample_grids
from fastmunit.runs.reports.reporter import Reporter
from fastmunit.runs.reports.tensorboard import TensorBoardLogger
from fastmunit.runs.result import TrainingResult
from fastmunit.runs.stop_signal import StopSignal
from fastmunit.systems.base import System

# A stop first waits this long for a batch, so that it comes after a whole iteration.
_SECONDS_FOR_A_BATCH = 3.0
_SECONDS_BETWEEN_CHECKS = 0.1

Batch: TypeAlias = tuple[Tensor, Tensor]


class Session:
    """One stretch of training in this process, from a start or resume to its end."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        trainer: System,
        device: torch.device,
        ranks: Ranks,
        keep: int | None,
        callbacks: Callback,
        started: float,
        time_limit: float | None,
        given: GivenImages | None,
        evaluator: Evaluator | None,
    ) -> None:
        self.config, self.folder, self.trainer, self.device = config, folder, trainer, device
        self.ranks, self.keep, self.callbacks, self.given = ranks, keep, callbacks, given
        self.evaluator = evaluator
        self.pace = Pace(config, started, time_limit)
        self.iterations = 0
        self.saved_at: int | None = None
        self.sampled_at: int | None = None
        self.losses: dict[str, float] = {}
        self.learning_rate = config.lr
        self.reporter: Reporter | None = None
        self.displays: dict[str, Batch] = {}

    def prepare(self, previous: Config, resume_at: int | None, initialized: bool) -> None:
        """Load the data and the checkpoint.

        Nothing may draw random numbers between restoring the checkpoint and the first iteration. Files of the run are
        changed only after everything has been loaded.

        Args:
            previous: Configuration of the checkpoint.
            resume_at: Iterations of the checkpoint; None starts a new run.
            initialized: True if the run starts from given weights.
        """
        datasets = training_datasets(self.config, self.given)
        self.pairs = TrainingPairs(self.config, datasets)
        self.images = resume_state.fingerprint(self.pairs.datasets)
        distributed.require_same(
            {"configuration": self.config.to_dict(), "set of training images": self.images, "checkpoint": resume_at}
        )
        distributed.on_first(self._load_displays)
        if resume_at is not None:
            self._resume(previous)
        self.evaluations = Evaluations(self.folder, self.evaluator, resume_at)
        self.ranks.require_same_weights(self.trainer, self.iterations)
        if self.ranks.main:
            checkpoint.discard_uncommitted(self.folder, -1 if resume_at is None else resume_at)
            self.folder.remove_partial_files()
            self.evaluations.restore()
        if initialized:  # otherwise a resume before the first checkpoint would start from random weights
            self._save()
        if self.ranks.main:
            with_absolute_paths(self.config).save(self.folder.config)
            self._attach_reports()

    def _load_displays(self) -> None:
        test = test_datasets(self.config, self.given, self.trainer.any_size)
        for part, datasets in (("test", test), ("train", self.pairs.datasets)):
            x_a, x_b = (display_images(d, self.config.display_size).to(self.device) for d in datasets)
            self.displays[part] = (x_a, x_b)

    def _resume(self, previous: Config) -> None:
        config_changes.require_same_networks(self.config, previous)
        changes = config_changes.differences(with_absolute_paths(self.config), with_absolute_paths(previous))
        if changes:
            inexact = " (so not bit for bit the earlier run)" if any(c.alters_training for c in changes) else ""
            self.callbacks.message(f"Resuming with a changed configuration{inexact}: {'; '.join(map(str, changes))}.")
        done, seconds, notes = checkpoint.resume(self.trainer, self.folder, self.config, previous, self.images)
        self.iterations = self.pace.first = self.saved_at = done
        self.pace.seconds_before = seconds
        for note in notes:
            self.callbacks.message(f"Note: {note}")
        self.callbacks.message(f"Resuming after iteration {done:,}.")
        if done >= self.config.max_iter:
            self.callbacks.message(
                f"The run is finished: {done:,} of {self.config.max_iter:,} iterations are done. To continue training, "
                "raise --max-iter."
            )

    def _attach_reports(self) -> None:
        tensorboard = TensorBoardLogger(self.folder.logs, self.iterations)
        if not tensorboard.available:
            self.callbacks.message("TensorBoard logs are off: `pip install tensorboard` turns them on.")
        self.reporter = Reporter(
            self.folder,
            self.config,
            self._facts(),
            self.trainer.rows,
            self.iterations,
            tensorboard.available,
            self.evaluations,
            self.callbacks.message,
        )
        self.callbacks = Callbacks([self.reporter, tensorboard, self.callbacks])

    def run(self) -> TrainingResult:
        """Train until the run ends. Raises the same errors as `train`."""
        self.pace.start()
        shares = distributed.positions(self.config.batch_size, self.trainer.batch_parts(self.config))
        try:
            self.callbacks.started(self._status(), self.trainer)
            with (
                StopSignal() as stop,
                explained(self.device, self._checkpoint_note),
                closing(self.pairs.batches(self.iterations, self.callbacks.message, shares)) as batches,
            ):
                ended = self._loop(stop, batches)
                if self.sampled_at != self.iterations and not ended.startswith("SIG"):
                    self._draw_samples(self._status(ended=True), keep=False)
                status = self._status(ended=True)
            result = TrainingResult(
                iterations=self.iterations,
                seconds=status.seconds,
                iterations_per_second=self.pace.session_speed(self.iterations),
                ended=ended,
                folder=self.folder,
                trainer=self.trainer,
                reporter=self.reporter,
                status=status,
            )
            self.callbacks.ended(result)
        except BaseException as error:
            with suppress(FastmunitError):  # the first error is the one to raise
                self.callbacks.failed(self._status(ended=True), error)
            raise
        finally:
            self.callbacks.finished()
        return result

    def _loop(self, stop: StopSignal, batches: Background[Batch]) -> str:
        """Train until the run ends, and return why it ended."""
        if self.saved_at == self.iterations and self.evaluations.is_due(self.iterations):
            self._evaluate()  # a signal or the time limit has ended the session before, or the weights are given
        while self.iterations < self.config.max_iter:
            if self.evaluations.is_over:
                self._save_unless_saved()
                return NO_IMPROVEMENT
            batch, ended = self._next_batch(batches, stop)
            if batch is not None:
                ended = self._iterate(batch, stop)
            if ended is not None:
                return ended
        return "finished"

    def _iterate(self, batch: Batch, stop: StopSignal) -> str | None:
        """Train on a batch, then log, draw samples, evaluate and save where due; return why the run ends, or None."""
        distributed.doing(f"iteration {self.iterations + 1}, computing")
        x_a, x_b = (x.to(self.device, non_blocking=True) for x in batch)
        self.trainer.step(x_a, x_b)
        self.iterations += 1
        self.pace.iteration()

        last = "finished" if self.iterations == self.config.max_iter else None
        ended = self.ranks.reason_to_stop(self._reason_to_stop(stop)) or last
        log = self._is_due(self.config.log_iter)
        save = self._is_due(self.config.snapshot_save_iter) or ended is not None
        keep = self._is_due(self.config.image_save_iter)
        evaluate = ended in (None, "finished") and self.evaluations.is_due(self.iterations)
        # Except on the CPU, reading a loss waits for the device to finish.
        if log or save or evaluate or self.device.type == "cpu":
            self._read_losses()
        status = self._status(ended=ended is not None)
        if log:
            self.callbacks.logged(status)
        if keep or self._is_due(self.config.image_display_iter):
            self._draw_samples(status, keep)
        if evaluate:
            self._evaluate()
        if save and self.saved_at != self.iterations:
            self._save()
        self.callbacks.iteration(status, self.trainer)
        return ended

    def _is_due(self, interval: int) -> bool:
        return self.iterations % interval == 0

    def _next_batch(self, batches: Background[Batch], stop: StopSignal) -> tuple[Batch | None, str | None]:
        """Return this process's images of the next batch, or save and return why the run ends.

        Raises:
            DataError: If the images cannot be loaded; a checkpoint is saved.
            RankError: If another process cannot load its images.
        """
        distributed.doing(f"iteration {self.iterations + 1}, waiting for images")
        batch, reason, problem = None, None, None
        try:
            reason = self._wait(batches, stop)
            if reason is None:
                batch = next(batches)
        except DataError as error:
            problem = error
            if stop.received is not None:  # the signal ended the processes that load images as well
                reason, problem = stop.received, None
        reason = self.ranks.reason_to_stop(reason, failed=problem is not None)
        if reason is None:
            return batch, None
        self._save_unless_saved()
        if problem is not None:
            raise DataError(f"{problem} {self._checkpoint_note()}") from problem
        if reason == FAILED:
            raise RankError(
                f"another process could not load its images; its error says which. {self._checkpoint_note()}"
            )
        return None, reason

    def _wait(self, batches: Background[Batch], stop: StopSignal) -> str | None:
        """Wait until the next batch is ready. If the run must stop and no batch comes, return why it stops."""
        began = time.monotonic()
        while not batches.ready(_SECONDS_BETWEEN_CHECKS):
            reason = self._reason_to_stop(stop)
            if reason is not None and time.monotonic() - began >= _SECONDS_FOR_A_BATCH:
                self.callbacks.message("No images arrived for the next iteration: stopping without it.")
                return reason
        return None

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        return stop.received or ("time" if self.pace.time_is_up else None)

    def _read_losses(self) -> None:
        """Copy the losses and the learning rate to the CPU.

        Raises:
            TrainingError: If a loss is not finite.
        """
        self.learning_rate = float(next(iter(self.trainer.optimizers().values())).param_groups[0]["lr"])
        values = self.trainer.losses()
        stacked = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=self.device) for v in values.values()])
        self.losses = dict(zip(values, stacked.tolist(), strict=True))
        bad = [name for name, value in self.losses.items() if not math.isfinite(value)]
        if bad:
            verb = "is" if len(bad) == 1 else "are"
            raise TrainingError(
                f"iteration {self.iterations}: {', '.join(bad)} {verb} NaN or infinite. {self._advice()}"
            )

    def _draw_samples(self, status: Status, keep: bool) -> None:
        """Draw the sample grids in the first process, without touching the random states of the training."""
        self.sampled_at = self.iterations
        if not self.ranks.main:
            return
        distributed.doing(f"iteration {self.iterations}, drawing sample grids")
        grids = {
            f"{direction}_{part}": grid
            for part, (x_a, x_b) in self.displays.items()
            for direction, grid in sample_grids(self.trainer, x_a, x_b, self.config.seed).items()
        }
        self.callbacks.sampled(status, grids, keep)

    def _evaluate(self) -> None:
        """Measure the translations. If they are the best so far, save a checkpoint and name it in best.json.

        Raises:
            TrainingError: If the translations are not finite.
        """
        distributed.doing(f"iteration {self.iterations}, evaluating")
        try:
            best = self.evaluations.add(self.trainer, self.iterations, self.pace.seconds)
        except DataError as error:  # the images were read and measured before the training
            raise TrainingError(f"iteration {self.iterations}: {error} {self._advice()}") from error
        self.callbacks.evaluated(self._status(), self.evaluations.records[-1], best is not None)
        if best is not None:
            if self.saved_at != self.iterations:
                self._save()
            distributed.on_first(lambda: self._name_best(best))

    def _name_best(self, best: Best) -> None:
        write_best(self.folder, best)
        if self.keep is not None:
            checkpoint.prune(self.folder, self.iterations, self.keep)

    def _save(self) -> None:
        distributed.doing(f"iteration {self.iterations}, saving")
        self.ranks.require_same_weights(self.trainer, self.iterations)
        distributed.on_first(self._write_checkpoint)
        self.saved_at = self.iterations
        self.callbacks.saved(self.iterations, self.folder.checkpoints)

    def _write_checkpoint(self) -> None:
        self.folder.require_present()
        try:
            checkpoint.save(self.trainer, self.folder, self.iterations, self.pace.seconds, self.images, self.keep)
        except TrainingError as error:
            raise TrainingError(f"{error} {self._advice()}") from error

    def _save_unless_saved(self) -> None:
        if self.iterations > self.pace.first and self.saved_at != self.iterations:
            self._read_losses()
            self._save()

    def _checkpoint_note(self) -> str:
        if self.saved_at is None:
            return "No checkpoint was written yet."
        return (
            f"The checkpoint of iteration {self.saved_at} in {self.folder.checkpoints} is kept; --resume continues it."
        )

    def _advice(self) -> str:
        rates = {"lr": self.config.lr, "lr_dis": self.config.lr_dis}
        lower = " ".join(f"--set {key}={rate / 2:g}" for key, rate in rates.items() if rate is not None)
        hints = [f"a lower learning rate ({lower})"]
        if self.config.precision != "float32":
            hints.append("--set precision=float32")
        if self.config.vgg_w > 0:
            hints.append(f"a smaller perceptual loss (--set vgg_w={self.config.vgg_w / 10:g})")
        return f"{self._checkpoint_note()} Try {' or '.join(hints)}."

    def _status(self, *, ended: bool = False) -> Status:
        return self.pace.status(self.iterations, self.losses, self.learning_rate, ended=ended)

    def _facts(self) -> dict[str, str]:
        return {
            "system": self.config.system,
            "device": describe_device(self.device),
            "precision": self.config.precision,
            "generator parameters": f"{_count(self.trainer.generators()) / 1e6:.2f} M",
            "discriminator parameters": f"{_count(self.trainer.discriminators()) / 1e6:.2f} M",
            "training images A + B": " + ".join(f"{len(dataset):,}" for dataset in self.pairs.datasets),
        }


def _count(networks: Mapping[str, nn.Module]) -> int:
    """Count the parameters of networks; shared ones count once."""
    return sum({id(p): p.numel() for network in networks.values() for p in network.parameters()}.values())
