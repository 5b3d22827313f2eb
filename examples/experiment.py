"""The parts that experiments over arms and seeds share: trainings that continue, results in files, tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from fastmunit import Config
from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.runs import ProgressBar, RunFolder, train
from fastmunit.runs.callbacks import Callback


class Results:
    """The results of an experiment in a folder: one JSON file per arm and seed, with the settings of the experiment.

    Args:
        folder: The folder.
        settings: What the results depend on, besides arm and seed; JSON values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)

    def path(self, arm: str, seed: int) -> Path:
        """Return the file of an arm and a seed."""
        return self.folder / f"{arm}_seed_{seed}.json"

    def get(self, arm: str, seed: int) -> dict[str, Any] | None:
        """Return a result, or None if there is none yet.

        Raises:
            FastmunitError: If the file is damaged, or belongs to other settings.
        """
        path = self.path(arm, seed)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, result = content["settings"], dict(content["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise FastmunitError(f"{path} cannot be read ({error}): remove it to compute it again.") from error
        if found != self.settings:
            raise FastmunitError(f"{path} belongs to a run with {found}, not {self.settings}: give another --output.")
        return result

    def put(self, arm: str, seed: int, result: Mapping[str, Any]) -> None:
        """Write a result."""
        content = {"arm": arm, "seed": seed, "settings": self.settings, "result": dict(result)}
        write_text(self.path(arm, seed), json.dumps(content, indent=1) + "\n")


def train_run(
    config: Config,
    folder: Path,
    device: str,
    callbacks: Sequence[Callback] = (),
    data: Mapping[str, Sequence[Path]] | None = None,
) -> Path:
    """Train to `config.max_iter`, continuing an earlier training in the run folder. Return the run folder.

    Without `data`, images are those of the folders that the configuration names.

    Raises:
        typer.Exit: If a signal stopped the training; the status is that of Ctrl-C in a shell.
    """
    run = RunFolder(folder)
    resume = run.config.is_file()
    bar = ProgressBar()
    result = train(config, run.root, data=data, resume=resume, device=device, keep=1, callbacks=[bar, *callbacks])
    if result.interrupted:
        print("Stopped; run the same command to continue.")
        raise typer.Exit(130)
    return folder


def table(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """Return a table of percentages: mean ± standard deviation over seeds, and the value of each seed."""
    width = max(map(len, rows))
    lines = [title]
    for name, values in rows.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"  {name:<{width}}  {statistics.mean(values):5.1f}{spread} %   ({each})")
    return "\n".join(lines)
