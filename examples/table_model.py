"""One model of the tables: trained for a given time, in one sitting or several, and what was measured of it.

Beside the files of a run (`fastmunit.runs.RunFolder`) its folder has training.json, which says with which settings
it is trained, on what, and, once its time is spent, for how many seconds and iterations. To measure a trained model,
three files are enough: training.json, config.yaml and checkpoints/gen_*.pt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmunit.runs import ProgressBar as Bar
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import write_text
from fastmunit.runs import RunFolder, describe_device, resolve_device, train
from fastmunit.runs.checkpoints import checkpoint

_RECORD = "training.json"


@dataclass(frozen=True)
class Model:
    """A model that a table needs.

    Attributes:
        title: for messages.
        folder: its run folder.
        config: what to train; the paths in it are those of this machine.
        settings: what decides the weights beside `config`: minutes, the recipe, the data. A folder that was made with
            others is refused.
        device: see `resolve_device`.
    """

    title: str
    folder: Path
    config: Config
    settings: Mapping[str, Any]
    device: str = "auto"

    @property
    def record(self) -> dict[str, Any]:
        """What training.json says; nothing where training has not begun.

        Raises:
            FastmunitError: the file is damaged, or the model was made with other settings.
        """
        path = self.folder / _RECORD
        if not path.is_file():
            return {}
        record = _read(path)
        if not {"settings", "devices", "seconds", "iterations"} <= set(record):
            raise FastmunitError(f"{path} is no record of a training: remove {self.folder} to train anew.")
        _require_same(path, record["settings"], self.settings)
        return record

    @property
    def trained(self) -> bool:
        """Whether its time is spent."""
        return self.record.get("iterations") is not None

    def train(self) -> None:
        """Train until the time is spent, what earlier calls spent included.

        Raises:
            SystemExit: a signal stopped it; the next call goes on.
            FastmunitError: as `fastmunit.runs.train`, or the folder was made with other settings.
        """
        run, device = RunFolder(self.folder), resolve_device(self.device)
        record = self.record or {"settings": dict(self.settings), "devices": []}
        newest = checkpoint.latest(run)
        spent = 0.0 if newest is None else checkpoint.seconds(run, newest)
        left = 60 * self.settings["minutes"] - spent
        if newest is None or left >= 1:
            place = f"{describe_device(device)}, {self.config.precision}"
            record["devices"] = list(dict.fromkeys([*record["devices"], place]))
            self._write({**record, "seconds": spent, "iterations": None})
            print(f"{self.title}: training for {left / 60:.1f} minutes", flush=True)
            result = train(self.config, self.folder, resume=run.config.is_file(), device=self.device, time_limit=left,
                           keep=1, allow_in_output=(_RECORD,), callbacks=[Bar(timed=True)])  # fmt: skip
            if result.interrupted:
                raise SystemExit("interrupted; the same command goes on from here.")
            newest, spent = result.iterations, result.seconds
        self._write({**record, "seconds": round(spent, 1), "iterations": newest})

    def generators(self) -> Path:
        """The gen_*.pt (or ema_*.pt) of the trained model.

        Raises:
            FastmunitError: it is not there, or is of another time or other networks than those recorded.
        """
        run, iterations = RunFolder(self.folder), self.record["iterations"]
        path = checkpoint.generators(run)
        if path is None or path.stem.rpartition("_")[2] != f"{iterations:08d}":
            raise CheckpointError(
                f"{self.folder / _RECORD} is of a model of {iterations} iterations, but {run.checkpoints} holds "
                f"{'no generators' if path is None else path.name}: put gen_{iterations:08d}.pt there."
            )
        checkpoint.require_same_networks(self.config, Config.load(run.config))
        return path

    def result(self, place: Path, measuring: Mapping[str, Any]) -> dict[str, Any] | None:
        """What place/result.json says; None where it is to be measured, or was measured in another way.

        Raises:
            FastmunitError: the file is damaged, or is of a model made with other settings.
        """
        path = place / "result.json"
        if not path.is_file():
            return None
        found = _read(path)
        if not {"training", "measuring", "figures"} <= set(found):
            raise FastmunitError(f"{path} is no result of this program: remove it to measure again.")
        _require_same(path, found["training"]["settings"], self.settings)
        if any(found["measuring"].get(key) != value for key, value in measuring.items()):
            print(f"{self.title}: {path} was measured with other settings, so it is measured again", flush=True)
            return None
        return found

    def write_result(self, place: Path, measuring: Mapping[str, Any], figures: list[dict[str, Any]]) -> dict[str, Any]:
        """Write place/result.json; returns its content."""
        result = {"training": self.record, "measuring": dict(measuring), "figures": figures}
        write_text(place / "result.json", json.dumps(result, indent=1) + "\n")
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


def _require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(dict(wanted)))
    other = [f"{key} {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value]
    other += [f"{key} {value}, which is not set now" for key, value in found.items() if key not in wanted]
    if other:
        raise FastmunitError(
            f"{path} is of a model made with other settings ({'; '.join(other)}): give the same ones, "
            "or another --output."
        )
