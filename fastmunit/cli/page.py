"""The command `fastmunit page`."""

from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo, shell_line


def page(
    run: Annotated[Path, typer.Argument(help="Run folder, a gen_*.pt, a model, or an export to ONNX.", metavar="RUN")],
    output: OutputFolder,
    which: Which = WhichCheckpoint.newest,
    engine: Annotated[
        Path | None,
        typer.Option(help="Take onnxruntime-web from this folder [downloaded with npm].", metavar="FOLDER"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Set the title of the page.", metavar="TEXT")] = None,
    styles_file: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the styles of this file, as `fastmunit styles` writes it [random styles].", metavar="FILE"
        ),
    ] = None,
    config: ConfigName = None,
) -> None:
    """Write a web page on which anyone can draw and see the model translate it.

    [bold]Example[/bold]

    fastmunit page runs/shoes --output shoes-page

    python -m http.server --directory shoes-page

    The folder works on any web server, without a network connection: the model runs in the visitor's browser, and no
    picture leaves it. An earlier page in the folder is replaced, and other files next to it stay. Each direction that
    the system has is exported and compared with PyTorch first, as by `fastmunit export`.
    """
    from fastmunit.page.build import build

    written = build(run, output, config=config, engine=engine, title=title, which=which.value, styles=styles_file)
    echo(f"Wrote {output} ({written.size / 1e6:,.1f} MB, {' and '.join(written.directions)}). Open it with:")
    echo(f"  {shell_line(['python', '-m', 'http.server', '--directory', str(output), '--bind', '127.0.0.1'])}")
    echo("and http://localhost:8000 in a browser.")
