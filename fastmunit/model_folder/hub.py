"""The Hugging Face Hub, through huggingface_hub. Its environment variables apply: HF_ENDPOINT, HF_TOKEN, HF_HOME."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import printable
from fastmunit.model_folder import config_file, tensors

_INSTALL = 'pip install "fastmunit[hub]"'


def download(name: str) -> Path:
    """Download config.json and model.safetensors of a model, or use the copy in the cache. Return their folder.

    Args:
        name: OWNER/NAME, or OWNER/NAME@REVISION for a branch, a tag or a commit.

    Raises:
        CheckpointError: If huggingface_hub is missing, or the model cannot be downloaded.
    """
    try:
        client = _client()
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{name} does not exist: check the path. If it is the name of a model on the Hugging Face Hub, install the "
            f"client first: {_INSTALL}."
        ) from error
    repository, _, revision = name.partition("@")
    try:
        folder = client.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[config_file.NAME, tensors.NAME],
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # its HTTP client's errors, too
        raise CheckpointError(
            f"{name} is no file or folder here, and it could not be downloaded from the Hugging Face Hub "
            f"({_reason(error)}): check the name, the network and, for a private model, HF_TOKEN."
        ) from error
    if not (Path(folder) / config_file.NAME).exists():
        raise CheckpointError(
            f"{name} is no file or folder here, and {name} on the Hugging Face Hub has no {config_file.NAME}, so it is "
            "no model by fastmunit: check the name."
        )
    return Path(folder)


def upload(
    folder: str | os.PathLike[str], name: str, *, private: bool = False, token: str | None = None, message: str
) -> str:
    """Upload a model folder into a repository of the Hub, which is created if it is missing. Return its URL.

    Raises:
        FastmunitError: If huggingface_hub is missing, or the upload fails.
    """
    try:
        client = _client()
    except ModuleNotFoundError as error:
        raise FastmunitError(f"push_to_hub needs huggingface_hub, which is not installed: {_INSTALL}.") from error
    api = client.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=printable(folder), commit_message=message)
    except Exception as error:  # its HTTP client's errors, too
        raise FastmunitError(
            f"{name} could not be uploaded ({_reason(error)}): check the name, the network, and HF_TOKEN."
        ) from error
    return str(url)


def _client() -> ModuleType:
    import huggingface_hub

    return huggingface_hub


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
