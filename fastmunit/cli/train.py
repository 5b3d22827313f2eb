"""`fastmunit train`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from fastmunit.cli.interrupt import INTERRUPTED
from fastmunit.cli.launch import start_processes, told_once
from fastmunit.cli.options import (
    ConfigName,
    Device,
    Devices,
    MaxPixels,
    OutputFolder,
    Seed,
    SystemName,
    Timeout,
)
from fastmunit.cli.output import echo, shell_line


class Term(str, Enum):
    """A reconstruction term of MUNIT's loss."""

    x = "x"
    c = "c"
    s = "s"


def train(
    output: OutputFolder,
    config: ConfigName = None,
    system: SystemName = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output, exactly where it stopped.")
    ] = False,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with trainA, trainB, testA, testB (sets data_root).", metavar="FOLDER"),
    ] = None,
    init: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Start a new run from the trained generators in this gen_*.pt or ema_*.pt, with fresh optimizers.",
            metavar="FILE",
        ),
    ] = None,
    init_dis: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Start a new run from the trained discriminators in this dis_*.pt.", metavar="FILE"),
    ] = None,
    device: Device = "auto",
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--set",
            help="Change one configuration key; repeat for more.",
            metavar="KEY=VALUE",
            rich_help_panel="Recipe",
        ),
    ] = None,
    max_iter: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Train up to this iteration.", metavar="N", rich_help_panel="Recipe"),
    ] = None,
    ablate: Annotated[
        Optional[list[Term]],  # noqa: UP045
        typer.Option(
            help="Leave out the reconstruction of images (x), content codes (c) or style codes (s); repeat for more.",
            metavar="x|c|s",
            rich_help_panel="Recipe",
        ),
    ] = None,
    seed: Seed = None,
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0, max=10**7, help="Stop after this time, with a snapshot.", metavar="MINUTES", rich_help_panel="Recipe"
        ),
    ] = None,
    keep: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Keep only the newest N snapshots (all by default).", metavar="N"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode every image before starting, and name all damaged ones at once.")
    ] = False,
    max_pixels: MaxPixels = None,
    devices: Devices = None,
    timeout: Timeout = 600.0,
) -> None:
    """Train MUNIT, UNIT, CycleGAN or BicycleGAN on two folders of images.

    [bold]Examples[/bold]

    fastmunit train --config edges2shoes --data datasets/edges2shoes --output runs/shoes

    fastmunit train --config my.yaml --output runs/mine --set lr=0.0002 --set gen.dim=32

    fastmunit train --system cyclegan --data datasets/horse2zebra --output runs/zebra

    fastmunit train --output runs/shoes --resume

    fastmunit train --config edges2shoes --data datasets/edges2shoes --output runs/shoes --devices 4

    fastmunit train --config edges2shoes --data boots --output runs/boots --init runs/shoes/checkpoints/gen_01000000.pt

    [bold]What you get in --output[/bold]

    report.html (sample grids and loss curves, up to date while it trains), checkpoints/ (files that the public trainer
    reads too), images/, logs/ (TensorBoard, losses.csv), config.yaml.

    Ctrl-C finishes the iteration, saves, and tells how to resume. A folder of the public trainer can be resumed too.
    """
    from fastmunit import distributed

    if devices is not None and not distributed.launched():
        start_processes(devices)
        return

    from fastmunit.cli.progress_bar import Bar
    from fastmunit.config import Config
    from fastmunit.errors import FastmunitError
    from fastmunit.runs import RunFolder
    from fastmunit.runs import train as run_training
    from fastmunit.runs.reports.training_report import duration
    from fastmunit.systems import registry

    folder = RunFolder(output)
    if config is None and system is not None and not resume:
        config = registry.system_named(system).recipe
    if config is None:
        if not resume:
            raise FastmunitError(
                "give --config (a YAML file, or a name that `fastmunit configs` lists), or --system for its recipe."
            )
        if not folder.config.exists():
            raise FastmunitError(
                f"nothing to resume in {output}: it has no config.yaml. Check --output, or give --config."
            )
    elif not resume and not distributed.launched():
        folder.require_unused()
    settings = Config.load(folder.config if config is None else config, overrides or ())
    if system is not None and system != settings.system:
        registry.system_named(system)
        settings.system, settings.options = system, {}
    if ablate and settings.system != "munit":
        raise FastmunitError(
            f"--ablate is for munit, and the system is {settings.system}: set its loss weights with --set, for example "
            "--set recon_x_w=0."
        )
    for term in ablate or ():
        setattr(settings, f"recon_{term.value}_w", 0.0)
    if data is not None:
        settings.data_root, settings.data_module = str(data.resolve()), None
    if max_iter is not None:
        settings.max_iter = max_iter
    if seed is not None:
        settings.seed = seed
    if max_pixels is not None:
        settings.max_pixels = max_pixels
    with told_once():
        result = run_training(
            settings,
            output,
            resume=resume,
            device=device,
            time_limit=None if minutes is None else 60 * minutes,
            keep=keep,
            verify=verify,
            callbacks=[Bar()],
            init=init,
            init_dis=init_dis,
            timeout=timeout,
        )
    main = distributed.rank() == 0
    distributed.shutdown()
    if not main:
        return
    if result.ended == "finished":
        echo(f"Finished: {result.iterations:,} iterations in {duration(result.seconds)}.")
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
