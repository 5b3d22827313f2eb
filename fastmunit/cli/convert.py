"""The command `fastmunit convert`."""

from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo, shell_line


def convert(
    output: OutputFolder,
    public: Annotated[
        Path | None,
        typer.Option(
            help="Convert the latest_net_G*.pth and latest_net_D*.pth in this folder, or this file of one generator, "
            "to a run folder.",
            metavar="FOLDER|FILE",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Convert this gen_*.pt, or one of a run folder, to latest_net_G*.pth and latest_net_D*.pth.",
            metavar="FILE|FOLDER",
        ),
    ] = None,
    which: Which = WhichCheckpoint.newest,
    config: ConfigName = None,
    epoch: Annotated[
        str, typer.Option(help="Read or write the public files of this epoch: latest, or a number.", metavar="EPOCH")
    ] = "latest",
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Train the converted run with this rate of dropout [0.5 if the names in the file show dropout, else "
            "0].",
            metavar="RATE",
        ),
    ] = None,
    generators_only: Annotated[bool, typer.Option("--generators-only", help="Leave the discriminators out.")] = False,
) -> None:
    """Convert models from and to the public CycleGAN and pix2pix repository.

    [bold]Examples[/bold]

    fastmunit convert --public checkpoints/horse2zebra --output runs/zebra

    fastmunit convert --public horse2zebra.pth --output runs/zebra

    fastmunit convert --checkpoint runs/zebra --output checkpoints/zebra

    Residual generators, U-Nets and PatchGANs of any width are converted if they agree. If they do not, the message
    names the properties that differ.
    """
    if (public is None) == (checkpoint is None):
        raise typer.BadParameter("give --public to read public files, or --checkpoint to write them")
    if public is not None and config is not None:
        raise typer.BadParameter("it is for --checkpoint: public files are recognized", param_hint="--config")
    if public is not None and which is not WhichCheckpoint.newest:
        raise typer.BadParameter("it is for --checkpoint: public files are of one checkpoint", param_hint="--which")
    if checkpoint is not None and dropout is not None:
        raise typer.BadParameter("it is for --public", param_hint="--dropout")
    if public is not None:
        from fastmunit.conversion.read_public import read_public

        converted = read_public(public, output, epoch=epoch, dropout=dropout, generators_only=generators_only)
        echo(f"Wrote {output}, a {converted.config.system} run. Translate with it, or train on from it:")
        train = ["fastmunit", "train", "--config", str(output / "config.yaml"), "--data", "FOLDER", "--output", "RUN"]
        train += ["--init", str(converted.generators)]
        train += ["--init-dis", str(converted.discriminators)] if converted.discriminators else []
        translate = ["fastmunit", "translate", "--checkpoint", str(output), "--input", "IMAGE", "--output", "OUT"]
        for command in (translate, train):
            echo(f"  {shell_line(command)}")
        for note in converted.notes:
            echo(note)
    elif checkpoint is not None:
        from fastmunit.conversion.write_public import write_public

        for written in write_public(
            checkpoint, output, config, which=which.value, epoch=epoch, generators_only=generators_only
        ):
            echo(f"Wrote {written.path}: {written.options}")
