"""One process of a training, which `launch` starts with the variables of torchrun.

python -m tests.distributed.worker TASK FOLDER [ARGUMENT ...]
"""

from __future__ import annotations

import itertools
import math
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastmunit import data, distributed, functional
from fastmunit.config import Config
from fastmunit.data import usable_regions
from fastmunit.data.usable_regions import Request, Rule, index_together, usable_cells
from fastmunit.data.value_range import PixelValues
from fastmunit.distributed import overlap
from fastmunit.errors import CheckpointError, ConfigError, DataError, RankError, TrainingError
from fastmunit.runs import RunFolder, train
from fastmunit.runs.checkpoints import checkpoint, resume_state
from fastmunit.runs.ranks import Ranks
from fastmunit.systems import registry
from fastmunit.systems.base import System
from tests.distributed.cases import BATCH, CASES, ITERATIONS, SHORT
from tests.runs.tiny import make_images, tiny_config


def trained(name: str, dtype: torch.dtype = torch.float64) -> System:
    """Return the system of a case after a few iterations on random images."""
    values = {**CASES[name]}
    compat = values.pop("compat", False)
    torch.manual_seed(0)
    config = Config.from_dict(values)
    trainer = registry.system_of(config)(config, compat=compat).to(dtype)
    size = config.crop_image_height
    images = torch.Generator().manual_seed(1)
    with functional.use_implementation("reference"):
        for _ in range(ITERATIONS):
            x_a, x_b = (
                torch.rand(BATCH, 3, size, size, generator=images, dtype=torch.float64).mul(2).sub(1).to(dtype)
                for _ in "ab"
            )
            trainer.step(trainer.share(x_a), trainer.share(x_b))
            if distributed.is_active() and distributed.rank() == 0:
                trainer.sample(x_a[:1], x_b[:1])  # as scripts do, in one process alone
    return trainer


def everything(trainer: System) -> dict[str, torch.Tensor]:
    """Return weights, buffers, averages, pools and losses by name."""
    found = {f"weight {name}": value for name, value in trainer.state_dict().items()}
    if trainer.averages is not None:
        for name, averages in trainer.averages.state_dicts(trainer.generators()).items():
            found.update({f"average {name}.{key}": value for key, value in averages.items()})
    for name, pool in getattr(trainer, "pools", {}).items():
        found.update({f"pool {name}.{k}": image for k, image in enumerate(pool.images)})
    found.update({name: torch.as_tensor(loss, dtype=torch.float64) for name, loss in trainer.losses().items()})
    return {name: value.detach().clone() for name, value in found.items()}


def systems(folder: Path, names: Iterable[str] = CASES) -> None:
    """Train the cases, check that all processes have the same bits, and save the results in rank 0."""
    overlap._BUCKET_BYTES = 2000
    for name in names:
        trainer = trained(name)
        Ranks().require_same_weights(trainer, ITERATIONS)
        if distributed.rank() == 0:
            number = list(CASES).index(name)
            torch.save(everything(trainer), folder / f"{distributed.world_size()}_{number}.pt")


def short(folder: Path) -> None:
    """Train the short cases and check each collective operation with two ranks."""
    systems(folder, SHORT)
    together()
    shared_index(folder)
    evaluated(folder / "evaluated")
    (folder / f"together_{distributed.rank()}").touch()


def shared_index(folder: Path) -> None:
    """Check that the regions of slides are looked at once, half of them by each rank."""
    path = folder / "slide.npy"
    tissue = np.random.default_rng(0).integers(0, 200, (40, 30), np.uint8)
    distributed.on_first(lambda: np.save(path, np.pad(tissue, 20, constant_values=255)))
    requests = [Request(str(path), 1, PixelValues(), crop, Rule("auto", 0.5)) for crop in ((10, 10), (7, 9))]
    calls: list[tuple[int, int]] = []
    index_together(requests, lambda done, total: calls.append((done, total)))
    total = 8 * 7 + (80 // 7) * (70 // 9)
    mine = len(distributed.block(total))
    assert mine < total and calls == [(done, mine) for done in range(1, mine + 1)]
    found = [usable_cells(request) for request in requests]
    usable_regions._known.clear()
    assert found == [usable_cells(request) for request in requests]
    assert [index.total for index in found] == [56, 77] and all(0 < len(index.cells) < index.total for index in found)


def together() -> None:
    """Check each collective operation with two ranks."""
    rank, world = distributed.rank(), distributed.world_size()
    double, single = torch.full((3,), float(rank), dtype=torch.float64), torch.full((2, 2), 2.0 * rank)
    scalar = torch.tensor(4.0 * rank)
    distributed.average([double, single, scalar, scalar])
    assert double.tolist() == [0.5] * 3 and single.tolist() == [[1.0, 1.0]] * 2 and scalar.item() == 2.0
    fine = torch.tensor([1.0 + 2**-12 * rank])
    distributed.average([fine], torch.bfloat16)
    assert fine.item() == 1.0

    whole = torch.arange(8.0)[:, None]
    for parts in (1, 2, 4):
        mine = distributed.share(whole, parts)
        assert len(mine) == 8 // world
        assert torch.equal(distributed.gather(mine, parts), whole)
    torch.manual_seed(3)
    drawn = distributed.draw(lambda count: torch.randn(count, 2), 4, 2)
    torch.manual_seed(3)
    assert torch.equal(distributed.gather(drawn, 2), torch.randn(8, 2))
    assert distributed.gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert distributed.all_agree(True) and not distributed.all_agree(rank == 0)
    before = torch.get_rng_state()
    assert torch.equal(torch.randn(2, generator=distributed.apart(None)), torch.randn(2))
    torch.set_rng_state(before)

    ranks = Ranks()
    assert ranks.reason_to_stop(None) is None
    assert ranks.reason_to_stop("time" if rank else None) == "time"
    assert ranks.reason_to_stop("time" if rank else "SIGTERM") == "SIGTERM"
    assert ranks.reason_to_stop("SIGINT", failed=rank == 1) == "failed"

    def fail() -> None:
        raise TrainingError("the disk is full")

    with pytest.raises(TrainingError, match="^the disk is full$" if rank == 0 else "^rank 0 failed: the disk is full$"):
        distributed.on_first(fail)
    distributed.on_first(lambda: None)
    distributed.require_same({"configuration": {"lr": 1}, "checkpoint": None})
    other = 1 - rank
    message = rf"rank {other} has another configuration than rank {rank} \(lr: {other} instead of {rank}\)"
    with pytest.raises(ConfigError, match=message):
        distributed.require_same({"configuration": {"lr": rank}})

    trainer = trained("cyclegan")
    ranks.require_same_weights(trainer, 5)
    if rank == 1:
        next(trainer.parameters()).data.view(-1)[0] += 1e-7
    with pytest.raises(RankError, match=r"weights of rank 1 are not those of rank 0; .* equal last after iteration 5"):
        ranks.require_same_weights(trainer, 9)
    scaled_gradients_are_skipped_together(rank)
    both_updates_are_a_step()


def both_updates_are_a_step() -> None:
    """Check that a script that calls the two updates itself, as the public one does, has the weights of `step`."""
    found = []
    for apart in (False, True):
        torch.manual_seed(0)
        trainer = registry.system_of(Config.from_dict(CASES["munit"]))(CASES["munit"]).double()
        images = torch.Generator().manual_seed(1)
        x_a, x_b = (trainer.share(torch.rand(BATCH, 3, 32, 32, generator=images, dtype=torch.float64)) for _ in "ab")
        if apart:
            trainer.update_learning_rate()
            trainer.dis_update(x_a, x_b)
            trainer.gen_update(x_a, x_b)
        else:
            trainer.step(x_a, x_b)
        found.append(everything(trainer))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def scaled_gradients_are_skipped_together(rank: int) -> None:
    """Check that an infinite gradient in one rank halves the scale in both, and that neither steps."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((weight * (math.inf if rank == 1 else 1.0)).sum()).backward()
    assert weight.grad is not None
    distributed.average([weight.grad])
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [1.0, 1.0] and scaler.get_scale() == 2.0


def evaluated(folder: Path) -> None:
    """Train with evaluations, and resume."""
    if distributed.rank() == 0:
        make_images(folder / "images", count=10)
    distributed.barrier()
    evaluations = {"eval_iter": 1, "eval_metrics": ["reconstruction"], "eval_inputs": 5, "eval_samples": 2}
    for last in (2, 3):
        config = tiny_config(folder / "images", max_iter=last, snapshot_save_iter=1, **evaluations)
        train(config, folder / "run", device="cpu", resume=last == 3)


def resumed(folder: Path, run: str, first: str, last: str) -> None:
    """Train in float64 from iteration `first`, resumed from `run`, to `last`, and save a checkpoint there."""
    config = Config.load(folder / "config.yaml")
    torch.manual_seed(config.seed)
    trainer = registry.system_of(config)(config).double()
    pairs = data.TrainingPairs(config)
    images = resume_state.fingerprint(pairs.datasets)
    root = RunFolder(folder / run)
    root.create()
    if int(first):
        assert checkpoint.resume(trainer, root, config, config, images)[0] == int(first)
    shares = distributed.positions(config.batch_size, trainer.batch_parts(config))
    batches = pairs.batches(int(first), positions=shares)
    for _ in range(int(first), int(last)):
        x_a, x_b = next(batches)
        trainer.step(x_a.double(), x_b.double())
    if distributed.rank() == 0:
        checkpoint.save(trainer, root, int(last), 0.0, images)
    distributed.barrier()


def broken(folder: Path, how: str) -> None:
    """Train with a fault in one rank, which must end all of them."""
    config = Config.load(folder / "config.yaml")
    rank = distributed.rank()
    step = System.step

    def faulty(self: System, x_a: torch.Tensor, x_b: torch.Tensor, *others: Any) -> None:
        faulty.calls += 1  # type: ignore[attr-defined]
        if faulty.calls == 3 and rank == 1:  # type: ignore[attr-defined]
            match how:
                case "killed":
                    os.kill(os.getpid(), 9)
                case "hangs":
                    time.sleep(3600)
                case "stopped":
                    os.kill(os.getpid(), 19)
                case "not a number":
                    x_a = x_a * math.nan
        step(self, x_a, x_b, *others)

    faulty.calls = 0  # type: ignore[attr-defined]
    System.step = faulty  # type: ignore[method-assign]
    if how == "damaged image" and rank == 1:
        decoded = itertools.count()  # two per iteration; the first process alone decodes those of the sample grids
        decode = data.ImageDataset.decode_whole

        def damaged(self: data.ImageDataset, index: int) -> torch.Tensor:
            if next(decoded) >= 4:
                raise DataError(f"image {index} is damaged")
            return decode(self, index)

        data.ImageDataset.decode_whole = damaged  # type: ignore[method-assign]
    if how == "before the start" and rank == 1:

        def refuse(*_: Any) -> None:
            raise CheckpointError("dis_00000001.pt is damaged")

        checkpoint.load_initial_weights = refuse
    if how == "disk full" and rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    train(config, folder / "run", device="cpu", timeout=8)


def captured(folder: Path) -> None:
    """Check that replaying NCCL's all-reduce in a graph gives the bits of a training without a process group."""
    torch.backends.cudnn.deterministic = True
    found = []
    for grouped in (False, True):
        if grouped:
            distributed.setup(device="cuda")
        torch.manual_seed(0)
        config = Config.from_dict({**CASES["munit"], "cuda_graph": True})
        trainer = registry.system_of(config)(config).cuda()
        images = torch.Generator().manual_seed(1)
        for _ in range(8):
            trainer.step(*(torch.rand(BATCH, 3, 32, 32, generator=images).cuda() * 2 - 1 for _ in "ab"))
        for _ in range(8):
            x_a, x_b = (torch.rand(BATCH, 3, 32, 32, generator=images).cuda() * 2 - 1 for _ in "ab")
            trainer.dis_update(x_a, x_b)
            trainer.gen_update(x_a, x_b)
        assert trainer.replays
        found.append(everything(trainer))
    assert torch.distributed.get_backend(torch.distributed.group.WORLD).endswith("nccl")
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


TASKS = {"systems": systems, "short": short, "resumed": resumed, "broken": broken, "captured": captured}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] != "captured":
        distributed.setup(timeout=8 if sys.argv[1] == "broken" else 120, device="cpu")
    TASKS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    distributed.shutdown()
