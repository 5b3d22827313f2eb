"""The command `fastmunit demo`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastmunit.cli.interrupt import INTERRUPTED
from fastmunit.cli.options import SYSTEMS, Device
from fastmunit.cli.output import echo, shell_line

if TYPE_CHECKING:
    import torch

    from fastmunit.systems.translators import Translator

_IMAGES, _STYLES = 8, 8
_MARKER = "demo.json"
_ALLOWED = ("data", "pairs", _MARKER)


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Write into this folder, replacing an earlier demo.", metavar="FOLDER"),
    ] = Path("runs/demo"),
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10**7, help="Finish everything within this time.", metavar="MINUTES")
    ] = 5.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Set the seed of all random numbers.", metavar="N")
    ] = 0,
    device: Device = "auto",
    system: Annotated[str, typer.Option(help=f"Train this system: {SYSTEMS}.", metavar="NAME")] = "munit",
    config: Annotated[
        str | None,
        typer.Option(help="Use another demo configuration that `fastmunit configs` lists.", metavar="NAME"),
    ] = None,
) -> None:
    """Train on the built-in fruit photos for a few minutes and color held-out drawings.

    [bold]Examples[/bold]

    fastmunit demo

    fastmunit demo --minutes 20 --output runs/longer

    Learns to translate between edge drawings and photos (64x64; systems that need pairs get pairs), then draws
    [bold]samples.png[/bold]: held-out drawings in eight random styles and in the styles of held-out photos. Open
    [bold]report.html[/bold] to watch it train.

    Ctrl-C saves; `fastmunit train --output runs/demo --resume` continues. A new demo in the same folder replaces the
    earlier one and nothing else.
    """
    started = time.monotonic()
    from fastmunit import data
    from fastmunit.config import Config
    from fastmunit.errors import ConfigError
    from fastmunit.export.packages import missing
    from fastmunit.runs import ProgressBar, RunFolder, resolve_device, train
    from fastmunit.runs.device import has_fast_bfloat16
    from fastmunit.runs.reports.html import Picture
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.runs.reports.training_report import duration
    from fastmunit.systems import registry

    if config is not None and system != "munit":
        raise ConfigError(f"--config {config} already chooses the system: leave out --system {system}.")
    place = resolve_device(device)
    settings = Config.load(config or registry.system_named(system).demo_recipe)
    _remove_previous_demo(output, minutes, seed)
    if settings.pairs == "unpaired":
        root = data.unpack_demo(output / "data")
    else:
        root = data.unpack_paired_demo(output / "pairs")
    settings.data_root, settings.data_module, settings.seed = str(root), None, seed
    settings.precision = "bfloat16" if has_fast_bfloat16(place) else "float32"

    limit = _training_seconds(minutes, time.monotonic() - started)
    echo(f"Training on {place} in {settings.precision} for {duration(limit)}; watch {output / 'report.html'}.")
    progress = ProgressBar(timed=True)
    result = train(
        settings, output, device=device, time_limit=limit, keep=1, allow_in_output=_ALLOWED, callbacks=[progress]
    )
    if result.interrupted:
        echo(f"Stopped after iteration {result.iterations:,}; everything is saved. Continue with:")
        echo(f"  {shell_line(['fastmunit', 'train', '--output', str(output), '--resume'])}")
        raise typer.Exit(INTERRUPTED)

    translator = result.trainer.evaluation_translator("a2b")
    samples = output / "samples.png"
    save(_samples(translator, root, seed), samples)
    result.add_to_report(Picture(_caption(translator), samples.read_bytes()))
    echo(
        f"Done in {duration(time.monotonic() - started)}: {result.iterations:,} iterations, "
        f"{result.iterations_per_second:.2f} iterations/s."
    )
    echo(f"Look at {samples} and {output / 'report.html'}.")
    page = RunFolder(output).page
    echo("Draw on a page that runs this model in your browser:")
    if missing("onnx", "onnxscript", "onnxruntime"):
        echo(f"  {shell_line(['pip', 'install', 'fastmunit[export]'])}")
    echo(f"  {shell_line(['fastmunit', 'page', str(output), '--output', str(page)])}")
    echo(f"  {shell_line(['python', '-m', 'http.server', '--directory', str(page), '--bind', '127.0.0.1'])}")


def _training_seconds(minutes: float, spent: float) -> float:
    """Return the time for training: the rest of `minutes` after `spent` seconds, less a reserve for the results."""
    budget = 60 * minutes
    return max(0.0, budget - min(8.0, 0.2 * budget) - spent)


def _samples(translator: "Translator", root: Path, seed: int) -> "torch.Tensor":
    """Draw rows of inputs, outputs in one random style per row, outputs in the styles of photos, and these photos.

    A system without style codes has one row of outputs.
    """
    import torch

    from fastmunit import data
    from fastmunit.runs.reports.image_grid import grid

    drawings = [data.read_image(path, 3) for path in _spread(data.list_images(root / "testA"), 0.0)]
    photos = [data.read_image(path, 3) for path in _spread(data.list_images(root / "testB"), 0.5)]
    styles = translator.random_styles(_STYLES if translator.style_dim else 1, torch.Generator().manual_seed(seed))
    columns = []
    for drawing, photo in zip(drawings, photos, strict=True):
        codes = torch.cat([styles, translator.style_of(photo)]) if translator.takes_references else styles
        columns.append([drawing, *translator.translate(drawing, codes), photo])
    return grid([list(row) for row in zip(*columns, strict=True)])


def _caption(translator: "Translator") -> str:
    if not translator.style_dim:
        return "Held-out drawings (first row), their translations, and photos for comparison"
    rows = f"Held-out drawings (first row) in {_STYLES} random styles, one per row; "
    if translator.takes_references:
        return rows + "then each in the style of the photo below it"
    return rows + "then photos for comparison"


def _spread(paths: list[Path], offset: float) -> list[Path]:
    """Return eight paths, spread evenly. Different offsets return different ones."""
    return [paths[int((k + offset) * len(paths) / _IMAGES)] for k in range(_IMAGES)]


def _remove_previous_demo(output: Path, minutes: float, seed: int) -> None:
    """Remove an earlier demo from `output`, and refuse any other folder that is not empty."""
    import json

    from fastmunit.files import write_text
    from fastmunit.runs import RunFolder
    from fastmunit.runs.checkpoints.run_folder import remove

    folder = RunFolder(output)
    if (output / _MARKER).is_file():
        earlier = [folder.checkpoints, folder.images, folder.logs, folder.config, folder.report]
        earlier += [output / "samples.png", folder.evaluation]
        with folder.lock():
            folder.require_unused((*_ALLOWED, *(path.name for path in earlier)))
            for path in earlier:
                remove(path)
    else:
        folder.require_unused()
    write_text(output / _MARKER, json.dumps({"made_by": "fastmunit demo", "minutes": minutes, "seed": seed}) + "\n")
