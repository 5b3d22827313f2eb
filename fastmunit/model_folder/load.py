"""Reading of model folders, and finding them: by path, by the name of a packaged model, or on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.files import digest, printable, require_regular_file
from fastmunit.model_folder import config_file, hub, tensors
from fastmunit.model_folder.about import About
from fastmunit.model_folder.config_file import Header
from fastmunit.model_folder.save import extras

_PACKAGED = Path(str(resources.files("fastmunit") / "models"))
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,200})?", re.ASCII)
_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".yaml", ".json", ".zip")
"""Ends of names that are files of a checkpoint, not names on the Hub."""


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose config.json has been read and whose weights are complete.

    Attributes:
        path: The folder.
        header: Content of config.json.
        config: The configuration, without paths.
    """

    path: Path
    header: Header
    config: Config

    @property
    def weights(self) -> Path:
        """The path of model.safetensors."""
        return self.path / tensors.NAME

    @property
    def about(self) -> About:
        """Facts about the model, with the paths of its picture and of the license of its data."""
        return self.header.about.model_copy(update=extras(self.path))


def is_model_folder(path: Path) -> bool:
    """Return True if a folder has one of the two files that make a model folder."""
    return (path / config_file.NAME).exists() or (path / tensors.NAME).exists()


def read_folder(path: str | os.PathLike[str]) -> ModelFolder:
    """Read a model folder, and check its weights against the SHA-256 in config.json.

    Raises:
        CheckpointError: If a file is missing or damaged, or config.json is not that of a model folder.
        ConfigError: If the configuration is wrong.
    """
    folder = Path(path)
    header, config = config_file.read(folder / config_file.NAME)
    weights = folder / tensors.NAME
    require_regular_file(weights, "model", CheckpointError)
    if digest(weights) != header.sha256:
        raise CheckpointError(
            f"{printable(weights)} is not the file that was saved with its {config_file.NAME}: it is damaged, "
            "truncated or belongs to another model. Get the folder again."
        )
    return ModelFolder(folder, header, config)


def packaged() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name."""
    return {path.name: path for path in sorted(_PACKAGED.glob("*")) if is_model_folder(path)}


def find(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: an existing path, a packaged model, or a download from the Hub.

    Args:
        name: Path, name of a packaged model, or OWNER/NAME or OWNER/NAME@REVISION of a model on the Hub. Nothing is
            downloaded if the path exists.

    Raises:
        CheckpointError: If it is none of these, or the download fails.
    """
    text = printable(name)
    models = packaged()
    path = Path(name)
    if text in models and not _holds_weights(path):
        return models[text]
    try:
        if path.exists():
            return path
    except OSError as error:  # for example a name that is too long
        raise CheckpointError(f"checkpoint {text[:500]} cannot be read ({error.strerror}): check the path.") from error
    if _HUB_NAME.fullmatch(text) and ".." not in text and not text.lower().endswith(_FILES):
        return hub.download(text)
    nearest = difflib.get_close_matches(text, models, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    known = f"; packaged models: {', '.join(models)}" if models else ""
    raise CheckpointError(f"checkpoint {text[:500]} does not exist: check the path{hint}{known}.")


def find_folder(name: str | os.PathLike[str]) -> ModelFolder:
    """Read the model folder that `find` returns.

    Raises:
        CheckpointError: If there is none, or it cannot be used.
        ConfigError: If its configuration is wrong.
    """
    path = find(name)
    if path.name == tensors.NAME:
        path = path.parent
    if not path.is_dir() or not is_model_folder(path):
        raise CheckpointError(
            f"{printable(path)} is not a model folder, as save_pretrained writes it: for a run folder or a gen_*.pt, "
            "use fastmunit.load_translator."
        )
    return read_folder(path)


def _holds_weights(path: Path) -> bool:
    """Return True if a folder with the name of a packaged model is a model itself, and not, for example, its data."""
    return path.is_file() or is_model_folder(path) or (path / "checkpoints").exists() or any(path.glob("gen_*.pt"))
