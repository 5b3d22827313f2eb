"""The files of onnxruntime-web, which runs the model in the visitor's browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from fastmunit.errors import FastmunitError
from fastmunit.files import printable

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
COPIED_SCRIPT = "ort.wasm.bundle.min.js"
"""Name in the page. Some servers do not know the suffix .mjs, and browsers run no script of an unknown type."""
_NPM_SECONDS = 600
_HEADER_BYTES = 400


def copy_engine(target: Path, folder: Path | None = None) -> None:
    """Put the files of the engine into a folder.

    Args:
        target: Folder to write into. It is created.
        folder: The unpacked npm package, or its folder `dist`. None downloads the package with npm.

    Raises:
        FastmunitError: If the files are missing or have another version, or npm is missing or fails.
    """
    target.mkdir(parents=True)
    if folder is not None:
        _copy(folder, target)
        return
    if shutil.which("npm") is None:
        raise FastmunitError(f"the page needs {PACKAGE}, and npm, which downloads it, is not installed. {_by_hand()}")
    with tempfile.TemporaryDirectory(prefix="fastmunit-") as temporary:
        _copy(_downloaded(Path(temporary)), target)


def _copy(folder: Path, target: Path) -> None:
    places = (
        folder,
        folder / "dist",
        folder / "package" / "dist",
        folder / "node_modules" / "onnxruntime-web" / "dist",
    )
    source = next((place for place in places if (place / SCRIPT).is_file() and (place / WASM).is_file()), None)
    if source is None:
        raise FastmunitError(f"{printable(folder)} does not contain {SCRIPT} and {WASM}. {_by_hand()}")
    with (source / SCRIPT).open("rb") as file:
        found = re.search(rb"ONNX Runtime Web v([\w.-]+)", file.read(_HEADER_BYTES))
    version = found[1].decode() if found else "of an unknown version"
    if version != VERSION:
        raise FastmunitError(f"{printable(source)} is onnxruntime-web {version}, not {VERSION}. {_by_hand()}")
    shutil.copyfile(source / SCRIPT, target / COPIED_SCRIPT)
    shutil.copyfile(source / WASM, target / WASM)


def _downloaded(folder: Path) -> Path:
    """Download the package and return the folder with its files."""
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FastmunitError(f"npm cannot download {PACKAGE} ({error}). {_by_hand()}") from error
    archives = list(folder.glob("*.tgz"))
    if result.returncode != 0 or not archives:
        lines = result.stderr.strip().splitlines()
        raise FastmunitError(
            f"npm cannot download {PACKAGE} ({lines[0] if lines else 'no reason given'}). {_by_hand()}"
        )
    try:
        with tarfile.open(archives[0]) as archive:
            for name in (SCRIPT, WASM):
                member = archive.extractfile(f"package/dist/{name}")
                if member is None:
                    raise KeyError(name)
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise FastmunitError(f"the archive of {PACKAGE} cannot be unpacked ({error}). {_by_hand()}") from error
    return folder


def _by_hand() -> str:
    return f"On a computer with npm, run `npm pack {PACKAGE}`, unpack the archive here, and give --engine FOLDER."
