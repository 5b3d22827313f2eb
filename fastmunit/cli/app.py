"""The typer application: its commands and global options."""

from typing import Annotated

import typer

from fastmunit.cli.command import Command, with_usable_values
from fastmunit.cli.configs import configs
from fastmunit.cli.convert import convert
from fastmunit.cli.demo import demo
from fastmunit.cli.errors import reported
from fastmunit.cli.evaluate import evaluate
from fastmunit.cli.export import export
from fastmunit.cli.info import info
from fastmunit.cli.output import echo
from fastmunit.cli.page import page
from fastmunit.cli.serve import serve
from fastmunit.cli.styles.app import styles
from fastmunit.cli.train import train
from fastmunit.cli.train_classifier import train_classifier
from fastmunit.cli.translate import translate

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train image-to-image translation models such as MUNIT on two folders of images, then translate images.",
    epilog="Start with [bold]fastmunit demo[/bold]: it trains on built-in photos in five minutes.",
)


def _show_version(requested: bool) -> None:
    if requested:
        import fastmunit

        echo(f"fastmunit {fastmunit.__version__}")
        raise typer.Exit()


@app.callback()
def _add_global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


for _command in (train, translate, export, page, serve, evaluate, train_classifier, convert, demo, configs, info):
    app.command(cls=Command)(reported(with_usable_values(_command)))
app.add_typer(styles, name="styles")
