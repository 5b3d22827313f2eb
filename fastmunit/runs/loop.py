"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data import TrainingPairs, display_images, test_datasets, training_datasets
from fastmunit.data.background import Background
from fastmunit.data.sources import GivenImages
from fastmunit.errors import DataError, FastmunitError, RankError, TrainingError
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.checkpoints import checkpoint, resume_state
from fastmunit.runs.checkpoints.run_folder import RunFolder, with_absolute_paths
from fastmunit.runs.device import describe_device
from fastmunit.runs.failures import explained
from fastmunit.runs.pace import Pace
from fastmunit.runs.ranks import FAILED, Ranks
from fastmunit.runs.reports.reporter import Reporter, SilentReporter
from fastmunit.runs.stop_signal import StopSignal
from fastmunit.systems.base import System

# A stop leaves a batch this long to arrive, so that it comes after the iteration in hand; then the wait is given up.
_SECONDS_FOR_A_BATCH = 3.0
_SECONDS_BETWEEN_CHECKS = 0.1


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        iterations: iterations done, resumed parts included.
        seconds: training time, resumed parts included.
        iterations_per_second: mean speed of this session.
        ended: "finished" (max_iter), "time" (the time limit) or the name of the signal that stopped it.
        folder: where everything is.
        trainer: the trained system.
        reporter: writes the report again, for example with result pictures.
        status: where the run stood at its end.
    """

    iterations: int
    seconds: float
    iterations_per_second: float
    ended: str
    folder: RunFolder
    trainer: System
    reporter: Reporter
    status: Status

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run."""
        return self.ended not in ("finished", "time")


class Session:
    """One stretch of training in this process."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        trainer: System,
        device: torch.device,
        ranks: Ranks,
        keep: int | None,
        progress: Callback,
        started: float,
        time_limit: float | None,
        given: GivenImages | None,
    ) -> None:
        self.config, self.folder, self.trainer, self.device = config, folder, trainer, device
        self.ranks, self.keep, self.progress, self.given = ranks, keep, progress, given
        self.pace = Pace(config, started, time_limit)
        self.iterations = 0
        self.saved_at: int | None = None
        self.losses: dict[str, float] = {}
        self.learning_rate = config.lr

    def prepare(self, previous: Config, resume_at: int | None, initialized: bool) -> None:
        """Load the data and the snapshot, whose random streams nothing may use before the first iteration.

        Files of the run are changed only when all that has succeeded.
        """
        datasets = training_datasets(self.config, self.given)
        self.pairs = TrainingPairs(self.config, datasets)
        self.images = resume_state.fingerprint(self.pairs.datasets)
        self.ranks.require_same_start(self.config, self.images, resume_at)
        displays = {}
        for part, shown in (("train", datasets), ("test", test_datasets(self.config, self.given))):
            x_a, x_b = (display_images(d, self.config.display_size).to(self.device) for d in shown)
            displays[part] = (x_a, x_b)
        if resume_at is not None:
            checkpoint.require_same_networks(self.config, previous)
            changes = checkpoint.differences(with_absolute_paths(self.config), with_absolute_paths(previous))
            if changes:
                exact = "" if not any(c.alters_training for c in changes) else " (so not bit for bit the earlier run)"
                self.progress.message(f"Resuming with a changed configuration{exact}: {'; '.join(map(str, changes))}.")
            done, seconds, notes = checkpoint.resume(self.trainer, self.folder, self.config, previous, self.images)
            self.iterations = self.pace.first = self.saved_at = done
            self.pace.seconds_before = seconds
            for note in notes:
                self.progress.message(f"Note: {note}")
            self.progress.message(f"Resuming after iteration {done:,}.")
            if done >= self.config.max_iter:
                self.progress.message(
                    f"The run is finished: {done:,} of {self.config.max_iter:,} iterations are done. To train on, "
                    "raise --max-iter."
                )
        self.ranks.require_same_weights(self.trainer, self.iterations)
        if self.ranks.main:
            checkpoint.discard_uncommitted(self.folder, -1 if resume_at is None else resume_at)
            self.folder.remove_partial_files()
        if initialized:  # so that resuming does not begin from random weights
            self._save()
        if not self.ranks.main:
            self.reporter: Reporter = SilentReporter()
            return
        with_absolute_paths(self.config).save(self.folder.config)
        self.reporter = Reporter(
            self.folder,
            self.config,
            displays,
            self._facts(),
            self.trainer.rows,
            self.iterations,
            self.progress.message,
        )

    def run(self) -> TrainingResult:
        """Train until the run ends, and return how it ended. Raises what `train` does."""
        if self.device.type == "cuda" and not torch.backends.cudnn.deterministic:
            torch.backends.cudnn.benchmark = True  # shapes stay the same; the search may choose otherwise next time
        self.pace.start()
        shares = distributed.positions(self.config.batch_size, self.trainer.batch_parts(self.config))
        try:
            if not self.reporter.logs_scalars:
                self.progress.message("TensorBoard logs are off: `pip install tensorboard` turns them on.")
            self.progress.started(self._status(), self.trainer)
            with (
                StopSignal() as stop,
                explained(self.device, self._kept),
                closing(self.pairs.batches(self.iterations, self.progress.message, shares)) as batches,
            ):
                self.reporter.write(self._status(), "running")
                ended = self._loop(stop, batches)
                status = self._status(ended=True)
                self.reporter.write(status, "stopped" if ended.startswith("SIG") else "finished")
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
            self.progress.ended(result)
        except BaseException as error:
            problem = str(error) or type(error).__name__
            with suppress(FastmunitError):  # the first error is the one to tell
                self.reporter.write(self._status(ended=True), "failed", problem)
            raise
        finally:
            self.progress.finished()
            self.reporter.close()
        return result

    def _loop(self, stop: StopSignal, batches: Background[tuple[Tensor, Tensor]]) -> str:
        config, trainer = self.config, self.trainer
        displayed_at = -1
        ended = "finished"
        while self.iterations < config.max_iter:
            batch, given_up = self._next_batch(batches, stop)
            if batch is None:
                ended = given_up
                break
            self.ranks.doing(f"iteration {self.iterations + 1}, computing")
            x_a, x_b = (x.to(self.device, non_blocking=True) for x in batch)
            trainer.step(x_a, x_b)
            self.iterations += 1
            self.pace.iteration()

            logging = self.iterations % config.log_iter == 0
            saving = self.iterations % config.snapshot_save_iter == 0
            keeping = self.iterations % config.image_save_iter == 0
            displaying = keeping or self.iterations % config.image_display_iter == 0
            ended = self.ranks.reason_to_stop(self._reason_to_stop(stop)) or ended
            ending = ended != "finished" or self.iterations == config.max_iter
            # Except on the CPU, reading a loss waits for the device to finish.
            if logging or saving or ending or self.device.type == "cpu":
                self._read_losses()
            status = self._status(ended=ending)
            if logging:
                self.reporter.log(status)
            if displaying:
                self.ranks.doing(f"iteration {self.iterations}, drawing sample grids")
                self.reporter.display(trainer, self.iterations, keep=keeping)
                self.reporter.write(status, "running")
                displayed_at = self.iterations
            if saving or ending:
                self._save()
            self.progress.iteration(status, trainer)
            if ending:
                break
        if displayed_at != self.iterations and not ended.startswith("SIG"):
            self.reporter.display(trainer, self.iterations, keep=False)
        return ended

    def _next_batch(
        self, batches: Background[tuple[Tensor, Tensor]], stop: StopSignal
    ) -> tuple[tuple[Tensor, Tensor] | None, str]:
        """Return this process's images of the next batch, or None and why the run ends, with a snapshot.

        Raises:
            DataError: They cannot be loaded; a snapshot is kept.
            RankError: Another process cannot load its images.
        """
        self.ranks.doing(f"iteration {self.iterations + 1}, waiting for images")
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
            return batch, ""
        self._save_unless_saved()
        if problem is not None:
            raise DataError(f"{problem} {self._kept()}") from problem
        if reason == FAILED:
            raise RankError(f"another process could not load its images; its error says which. {self._kept()}")
        return None, reason

    def _wait(self, batches: Background[tuple[Tensor, Tensor]], stop: StopSignal) -> str | None:
        """Wait until `next(batches)` needs no time; return why the run ends instead where no batch comes."""
        began = time.monotonic()
        while not batches.ready(_SECONDS_BETWEEN_CHECKS):
            reason = self._reason_to_stop(stop)
            if reason is not None and time.monotonic() - began >= _SECONDS_FOR_A_BATCH:
                self.progress.message("No images came for the next iteration: stopping without it.")
                return reason
        return None

    def _reason_to_stop(self, stop: StopSignal) -> str | None:
        return stop.received or ("time" if self.pace.time_is_up else None)

    def _read_losses(self) -> None:
        """Bring the losses and the learning rate to the CPU, and stop when a loss is not finite."""
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

    def _save(self) -> None:
        self.ranks.doing(f"iteration {self.iterations}, saving")
        self.ranks.require_same_weights(self.trainer, self.iterations)
        self.ranks.by_main(self._write_snapshot)
        self.saved_at = self.iterations
        self.progress.saved(self.iterations, self.folder.checkpoints)

    def _write_snapshot(self) -> None:
        self.folder.require_present()
        try:
            checkpoint.save(self.trainer, self.folder, self.iterations, self.pace.seconds, self.images, self.keep)
        except TrainingError as error:
            raise TrainingError(f"{error} {self._advice()}") from error

    def _save_unless_saved(self) -> None:
        if self.iterations > self.pace.first and self.saved_at != self.iterations:
            self._read_losses()
            self._save()

    def _kept(self) -> str:
        if self.saved_at is None:
            return "No snapshot was written yet."
        return f"The snapshot of iteration {self.saved_at} in {self.folder.checkpoints} is kept; --resume continues it."

    def _advice(self) -> str:
        hints = [f"a lower learning rate (--set lr={self.config.lr / 2:g})"]
        if self.config.precision != "float32":
            hints.append("--set precision=float32")
        if self.config.vgg_w > 0:
            hints.append(f"a smaller perceptual loss (--set vgg_w={self.config.vgg_w / 10:g})")
        return f"{self._kept()} Try {' or '.join(hints)}."

    def _status(self, *, ended: bool = False) -> Status:
        return self.pace.status(self.iterations, self.losses, self.learning_rate, ended=ended)

    def _facts(self) -> Mapping[str, str]:
        gen = _count(self.trainer.generators())
        dis = _count(self.trainer.discriminators())
        counts = " + ".join(f"{len(dataset):,}" for dataset in self.pairs.datasets)
        return {
            "system": self.config.system,
            "device": describe_device(self.device),
            "precision": self.config.precision,
            "generator parameters": f"{gen / 1e6:.2f} M",
            "discriminator parameters": f"{dis / 1e6:.2f} M",
            "training images A + B": counts,
        }


def _count(networks: Mapping[str, nn.Module]) -> int:
    """Parameters of `networks`, shared ones once."""
    return sum({id(p): p.numel() for network in networks.values() for p in network.parameters()}.values())
