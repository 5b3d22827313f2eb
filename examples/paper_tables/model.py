"""A model of the tables: trained for a given time, in one or several calls, and measured.

In addition to the files of a run (`fastmunit.runs.RunFolder`), its folder has training.json: the settings of the
training and, once the time is up, its seconds and iterations. Measuring a trained model needs three files:
training.json, config.yaml and checkpoints/gen_*.pt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmunit import Config
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import write_text
from fastmunit.runs import ProgressBar, RunFolder, describe_device, resolve_device, train
from fastmunit.runs.checkpoints import checkpoint, config_changes

_RECORD = "training.json"


@dataclass(frozen=True)
class Model:
    """A model that a table needs.

    Attributes:
        title: Title for messages.
        folder: Run folder.
        config: Configuration to train. Its paths are of this machine.
        settings: Settings that decide the weights in addition to `config`: minutes, recipe, data. A folder that was
            made with other settings is refused.
        device: Device name; see `resolve_device`.
    """

    title: str
    folder: Path
    config: Config
    settings: Mapping[str, Any]
    device: str = "auto"

    @property
    def record(self) -> dict[str, Any]:
        """Content of training.json, empty before training.

        Raises:
            FastmunitError: If the file is damaged, or the model was made with other settings.
        """
        path = self.folder / _RECORD
        if not path.is_file():
            return {}
        record = _read(path)
        if not {"settings", "devices", "seconds", "iterations"} <= set(record):
            raise FastmunitError(f"{path} is not the record of a training: remove {self.folder} to train again.")
        _require_same(path, record["settings"], self.settings)
        return record

    @property
    def trained(self) -> bool:
        """True once its training time is used up."""
        return self.record.get("iterations") is not None

    def train(self) -> None:
        """Train until the time is used up, counting earlier calls.

        Raises:
            SystemExit: If a signal stopped it; the next call continues.
            FastmunitError: As `fastmunit.runs.train`, and if the folder was made with other settings.
        """
        run, device = RunFolder(self.folder), resolve_device(self.device)
        record = self.record or {"settings": dict(self.settings), "devices": []}
        newest = checkpoint.resumable(run)
        spent = 0.0 if newest is None else checkpoint.training_seconds(run, newest)
        left = 60 * self.settings["minutes"] - spent
        if newest is None or left >= 1:
            place = f"{describe_device(device)}, {self.config.precision}"
            record["devices"] = list(dict.fromkeys([*record["devices"], place]))
            self._write({**record, "seconds": spent, "iterations": None})
            print(f"{self.title}: training for {left / 60:.1f} minutes", flush=True)
            result = train(
                self.config,
                self.folder,
                resume=run.config.is_file(),
                device=self.device,
                time_limit=left,
                keep=1,
                allow_in_output=(_RECORD,),
                callbacks=[ProgressBar(timed=True)],
            )
            if result.interrupted:
                raise SystemExit("interrupted: run the same command to continue.")
            newest, spent = result.iterations, result.seconds
        self._write({**record, "seconds": round(spent, 1), "iterations": newest})

    def generators(self) -> Path:
        """Return the gen_*.pt (or ema_*.pt) of the trained model.

        Raises:
            FastmunitError: If it is missing, or its iteration or networks are not the recorded ones.
        """
        run, iterations = RunFolder(self.folder), self.record["iterations"]
        path = checkpoint.generators(run)
        if path is None or path.stem.rpartition("_")[2] != f"{iterations:08d}":
            raise CheckpointError(
                f"{self.folder / _RECORD} is of a model of {iterations} iterations, but {run.checkpoints} holds "
                f"{'no generators' if path is None else path.name}: put gen_{iterations:08d}.pt there."
            )
        config_changes.require_same_networks(self.config, Config.load(run.config))
        return path

    def result(self, folder: Path, measuring: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the content of result.json in `folder`, or None if it is missing or was measured with other settings.

        Raises:
            FastmunitError: If the file is damaged, or the model was made with other settings.
        """
        path = folder / "result.json"
        if not path.is_file():
            return None
        found = _read(path)
        if not {"training", "measuring", "figures"} <= set(found):
            raise FastmunitError(f"{path} is not a result of this program: remove it to measure again.")
        _require_same(path, found["training"]["settings"], self.settings)
        if any(found["measuring"].get(key) != value for key, value in measuring.items()):
            print(f"{self.title}: {path} was measured with other settings, so it is measured again", flush=True)
            return None
        return found

    def write_result(self, folder: Path, measuring: Mapping[str, Any], figures: list[dict[str, Any]]) -> dict[str, Any]:
        """Write result.json into `folder` and return its content."""
        result = {"training": self.record, "measuring": dict(measuring), "figures": figures}
        write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
        return result

    def _write(self, record: Mapping[str, Any]) -> None:
        write_text(self.folder / _RECORD, json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FastmunitError(f"{path} cannot be read ({error}): remove it.") from error
    if not isinstance(content, dict):
        raise FastmunitError(f"{path} does not hold a JSON object: remove it.")
    return content


def _require_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    expected = json.loads(json.dumps(dict(expected)))
    differences = [f"{key} {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value]
    differences += [f"{key} {value}, which is not set now" for key, value in found.items() if key not in expected]
    if differences:
        raise FastmunitError(
            f"{path} is of a model made with other settings ({'; '.join(differences)}): give the same settings, or "
            "another --output."
        )
