"""The command `fastmunit train`."""

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastmunit.cli.interrupt import INTERRUPTED
from fastmunit.cli.launch import report_once, start_processes
from fastmunit.cli.options import SYSTEMS, ConfigName, Device, Devices, MaxPixels, Seed, Timeout
from fastmunit.cli.output import echo, shell_line

if TYPE_CHECKING:
    from fastmunit.config import Config
    from fastmunit.runs import RunFolder


_recipe_option = partial(typer.Option, rich_help_panel="Recipe")


class Term(str, Enum):
    """A reconstruction term of MUNIT's loss."""

    x = "x"
    c = "c"
    s = "s"


_plan_option = partial(typer.Option, rich_help_panel="Memory")


def _parse_size(text: str) -> int:
    from fastmunit.planning.available import bytes_of

    try:
        return bytes_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def train(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write into this folder.", metavar="FOLDER")
    ] = None,
    config: ConfigName = None,
    system: Annotated[
        str | None,
        typer.Option(
            help=f"Train this system: {SYSTEMS}. Without --config, use its default configuration.", metavar="NAME"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output, exactly where it stopped.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Read images from trainA, trainB, testA, testB in this folder.", metavar="FOLDER"),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start a new run from the generators in this gen_*.pt, ema_*.pt, or model.safetensors of a model "
            "folder, with fresh optimizers. Not allowed with --resume once the run has a checkpoint. Processes that "
            "torchrun restarts ignore it and resume.",
            metavar="FILE",
        ),
    ] = None,
    init_dis: Annotated[
        Path | None,
        typer.Option(
            help="Start a new run from the discriminators in this dis_*.pt, under the rules of --init.", metavar="FILE"
        ),
    ] = None,
    device: Device = "auto",
    overrides: Annotated[
        list[str] | None,
        _recipe_option("--set", help="Change one key of the configuration; repeat for more.", metavar="KEY=VALUE"),
    ] = None,
    max_iter: Annotated[int | None, _recipe_option(min=1, help="Train up to this iteration.", metavar="N")] = None,
    ablate: Annotated[
        list[Term] | None,
        _recipe_option(
            help="Leave out MUNIT's reconstruction loss of images (x), content codes (c) or style codes (s); repeat "
            "for more.",
            metavar="x|c|s",
        ),
    ] = None,
    seed: Seed = None,
    minutes: Annotated[
        float | None,
        _recipe_option(min=0, max=10**7, help="Save a checkpoint and stop after this time.", metavar="MINUTES"),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only the newest N checkpoints and the best one (all by default).", metavar="N"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode every image before starting, and name all damaged ones at once.")
    ] = False,
    max_pixels: MaxPixels = None,
    devices: Devices = None,
    timeout: Timeout = None,
    plan: Annotated[
        bool,
        _plan_option(
            "--plan",
            help="Only estimate the peak memory and name settings that fit: build nothing, read no images, write "
            "nothing. Exit with 1 if the configuration does not fit.",
        ),
    ] = False,
    memory: Annotated[
        int | None,
        _plan_option(
            parser=_parse_size,
            help="Plan for this much memory per process, such as 8GB, instead of what is free here. Then --device cuda "
            "needs no GPU.",
            metavar="SIZE",
        ),
    ] = None,
) -> None:
    """Train a model on two folders of images.

    [bold]Examples[/bold]

    fastmunit train --config edges2shoes --data datasets/edges2shoes --output runs/shoes

    fastmunit train --config my.yaml --output runs/mine --set lr=0.0002 --set gen.dim=32

    fastmunit train --system cyclegan --data datasets/horse2zebra --output runs/zebra

    fastmunit train --output runs/shoes --resume

    fastmunit train --config edges2shoes --data datasets/edges2shoes --output runs/shoes --devices 4 --set batch_size=4

    fastmunit train --config edges2shoes --data boots --output runs/boots --init runs/shoes/checkpoints/gen_01000000.pt

    fastmunit train --config edges2shoes --set batch_size=8 --plan --memory 16GB --device cuda

    [bold]Contents of --output[/bold]

    report.html (sample grids and loss curves, updated during training), checkpoints/ (files that the public trainer
    can also read), images/, logs/ (TensorBoard, losses.csv, evaluations.jsonl), config.yaml.

    Ctrl-C finishes the iteration, saves a checkpoint, and prints the command that resumes. Run folders of the public
    trainer can be resumed too.
    """
    from fastmunit import distributed

    if memory is not None and not plan:
        raise typer.BadParameter("it is for --plan", param_hint="--memory")
    if output is None and (resume or not plan):
        raise typer.BadParameter("give the folder to write into", param_hint="--output")
    if plan:
        _plan(_planned(output, config, system, resume, overrides or (), ablate or ()), device, devices or 1, memory)
        return
    assert output is not None
    if devices is not None and not distributed.launched():
        start_processes(devices)
        return

    from fastmunit.files import resolved
    from fastmunit.runs import ProgressBar, RunFolder
    from fastmunit.runs import train as run_training
    from fastmunit.runs.checkpoints.best import read_best
    from fastmunit.runs.evaluations import NO_IMPROVEMENT
    from fastmunit.runs.reports.training_report import duration

    settings = _configuration(RunFolder(output), config, system, resume, overrides or ())
    _ablate(settings, ablate or ())
    if data is not None:
        settings.data_root, settings.data_module = str(resolved(data)), None
    for key, value in (("max_iter", max_iter), ("seed", seed), ("max_pixels", max_pixels)):
        if value is not None:
            setattr(settings, key, value)
    with report_once():
        result = run_training(
            settings,
            output,
            resume=resume,
            device=device,
            time_limit=None if minutes is None else 60 * minutes,
            keep=keep,
            verify=verify,
            callbacks=[ProgressBar()],
            init=init,
            init_dis=init_dis,
            timeout=timeout,
        )
    main = distributed.rank() == 0
    distributed.shutdown()
    if not main:
        return
    best = read_best(result.folder)
    if best is not None:
        echo(f"Best checkpoint: iteration {best.iteration:,}, {best.score} {best.value:.4g}. Use it with --which best.")
    if result.ended == "finished":
        echo(f"Finished: {result.iterations:,} iterations in {duration(result.seconds)}.")
        echo(f"Report: {result.folder.report}")
        return
    if result.ended == NO_IMPROVEMENT:
        echo(
            f"Stopped after iteration {result.iterations:,}: no measure has improved beyond its interval in "
            f"{settings.eval_patience} evaluations. To go on, resume with a larger eval_patience."
        )
        echo(f"Report: {result.folder.report}")
        return
    command = ["fastmunit", "train", "--output", str(output), "--resume"]
    command += ["--device", device] if device != "auto" else []
    command += ["--devices", str(devices)] if devices is not None else []
    command += ["--keep", str(keep)] if keep is not None else []
    reason = "the time is up" if result.ended == "time" else result.ended
    echo(f"Stopped ({reason}) after iteration {result.iterations:,}; everything is saved. Resume with:")
    echo(f"  {shell_line(command)}")
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _planned(
    output: Path | None,
    config: str | None,
    system: str | None,
    resume: bool,
    overrides: Sequence[str],
    ablate: Sequence[Term],
) -> "Config":
    from fastmunit.runs import RunFolder

    settings = _configuration(None if output is None else RunFolder(output), config, system, resume, overrides)
    _ablate(settings, ablate)
    return settings


def _plan(settings: "Config", device: str, processes: int, memory: int | None) -> None:
    """Print the plan of a training.

    Raises:
        typer.Exit: If it does not fit.
    """
    import torch

    from fastmunit.planning.available import free_memory
    from fastmunit.planning.plan import plan
    from fastmunit.planning.text import lines_of
    from fastmunit.runs import resolve_device

    if memory is not None and device.partition(":")[0] == "cuda":
        place = torch.device("cuda")  # of another machine
    else:
        place = resolve_device(device)
    if memory is None:
        memory = free_memory(place) // (processes if place.type == "cpu" else 1)
    found = plan(settings, memory, place.type, processes)
    for line in lines_of(found, settings, place.type, processes):
        echo(line)
    if not found.fits:
        raise typer.Exit(1)


def _configuration(
    folder: "RunFolder | None", config: str | Path | None, system: str | None, resume: bool, overrides: Sequence[str]
) -> "Config":
    from fastmunit import distributed
    from fastmunit.config import Config
    from fastmunit.errors import FastmunitError
    from fastmunit.systems import registry

    if config is None and resume:
        assert folder is not None
        if not folder.config.exists():
            raise FastmunitError(
                f"nothing to resume in {folder.root}: it has no config.yaml. Check --output, or give --config."
            )
        config = folder.config
    elif config is None:
        if system is None:
            raise FastmunitError(
                "give --config (a YAML file, or a name that `fastmunit configs` lists), or --system for its default "
                "configuration."
            )
        config = registry.system_named(system).recipe
    if folder is not None and not resume and not distributed.launched():
        folder.require_unused()
    settings = Config.load(config, overrides)
    if system is not None and system != settings.system:
        registry.system_named(system)
        settings.system, settings.options = system, {}
    return settings


def _ablate(settings: "Config", terms: Sequence[Term]) -> None:
    from fastmunit.errors import FastmunitError

    if terms and settings.system != "munit":
        raise FastmunitError(
            f"--ablate is for munit, and the system is {settings.system}: set its loss weights with --set, for example "
            "--set recon_x_w=0."
        )
    for term in terms:
        setattr(settings, f"recon_{term.value}_w", 0.0)
