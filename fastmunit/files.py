"""Files that are whole or absent: written beside their target, flushed to disk, then renamed."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastmunit.errors import CheckpointError, FastmunitError

if TYPE_CHECKING:
    import torch


# Limits of Linux and macOS.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it onto `path` when the block succeeds.

    The data are flushed to disk before the rename, so that a crash at any moment leaves either the old file or the new
    one. When the block fails, the old file is untouched and the partial one is removed.

    Args:
        path: the file to replace or create; its folder is created.
        mode: "wb" or "w" (UTF-8).

    Raises:
        FastmunitError: the folder or the file cannot be written (read-only, disk full, a file in place of a folder).
    """
    target = Path(path)
    partial: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".partial")
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o666 & ~_umask())
        os.replace(partial, target)  # noqa: PTH105 - tests stand in for it
        partial = None
        _flush_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FastmunitError(
            f"cannot write {target}: {reason}. Free some space or choose a folder you can write to; "
            "what was there before is untouched."
        ) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                Path(partial).unlink()


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as printable text, with bytes that are not UTF-8 escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8: other bytes of a file name are lone surrogates in Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(path: str) -> str:
    """Return a path with a leading "~" and every "$VARIABLE" expanded; one that exists as written is kept.

    A variable that is not set stays as it is, and the missing file is reported by whoever reads it.

    Raises:
        ValueError: No file can have this name: it has a null character, or more bytes than file systems allow.
    """
    if "\0" in path:
        raise ValueError("the path has a null character: remove it")
    _check_lengths(path)
    if not path.startswith("~") and "$" not in path:
        return path
    if os.path.lexists(path):
        return path
    expanded = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - Path's raises for unknown users
    _check_lengths(expanded)
    return expanded


def _check_lengths(path: str) -> None:
    encoded = os.fsencode(path)
    if len(encoded) > _MAX_PATH_BYTES:
        raise ValueError(f"the path has {len(encoded):,} bytes, more than {_MAX_PATH_BYTES:,}: shorten it")
    longest = max(len(name) for name in encoded.split(b"/"))
    if longest > _MAX_NAME_BYTES:
        raise ValueError(f"the path has a name of {longest} bytes, more than {_MAX_NAME_BYTES}: shorten it")


def require_regular_file(path: str | os.PathLike[str], what: str, error: type[FastmunitError]) -> None:
    """Check that `path` is a regular file, without opening it: opening a FIFO or a device may block forever.

    Args:
        path: Path to check; links are followed.
        what: What the file is, as the first words of the message ("image", "configuration").
        error: Class of the error to raise.

    Raises:
        FastmunitError: Of class `error`, if the file is missing, is not a regular file, or its name is not usable.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as cause:
        raise error(f"{what} {shown(path)} does not exist: check the path.") from cause
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the name
        reason = cause.strerror if isinstance(cause, OSError) else str(cause)
        raise error(f"{what} {shown(path)} cannot be read ({reason}): check the path.") from cause
    if not stat.S_ISREG(mode):
        kind = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }.get(stat.S_IFMT(mode), "a special file")
        raise error(f"{what} {shown(path)} is {kind}, not a regular file: give the path of a file.")


def require_writable(*paths: str | os.PathLike[str]) -> None:
    """Check that files can be written, before the work whose result they are.

    Nothing with a name is made for it: another process that checks the same paths would trip over it.

    Raises:
        FastmunitError: as `atomic_write` does for these paths, or there is a folder in the place of one.
    """
    for path in map(Path, paths):
        try:
            if path.is_dir():
                raise OSError(None, "it is a folder")
            nearest = next(folder for folder in path.absolute().parents if folder.exists())
            if not nearest.is_dir():
                raise OSError(None, f"{nearest} is not a folder")
            with tempfile.TemporaryFile(dir=nearest) as file:
                file.write(bytes(4096))
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot write {path}: {reason}. Free some space or choose a folder you can write to."
            ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all. Raises FastmunitError as `atomic_write` does."""
    with atomic_write(path, "w") as file:
        file.write(text)


def save_tensors(obj: Any, path: str | os.PathLike[str]) -> None:
    """Save tensors, or dicts and lists of them, with `torch.save`, whole or not at all.

    Raises:
        FastmunitError: the file cannot be written.
    """
    with staged_tensors(obj, path):
        pass


@contextmanager
def staged_tensors(obj: Any, path: str | os.PathLike[str]) -> Iterator[str]:
    """Write what `save_tensors` does beside `path`, and rename it onto `path` when the block succeeds.

    Yields:
        The `digest` of the file.

    Raises:
        FastmunitError: the file cannot be written.
    """
    import torch

    with atomic_write(path) as file:
        hashed = _Hashed(file)
        checksums = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(True)  # `require_sound` reads them
        try:
            torch.save(obj, hashed)  # type: ignore[arg-type]  # it asks for write and flush alone
        except RuntimeError as error:  # torch's zip writer reports a failed write (disk full) as RuntimeError
            raise OSError(None, str(error).splitlines()[0]) from error
        finally:
            torch.serialization.set_crc32_options(checksums)
        yield hashed.hash.hexdigest()


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    found = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        return found.hexdigest()
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read ({error.strerror}): check the file.") from error


def require_sound(path: str | os.PathLike[str]) -> None:
    """Check the checksums in a file that `save_tensors` wrote, which `torch.load` does not look at.

    Raises:
        CheckpointError: the file is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{shown(path)} is damaged ({error}): use another snapshot.") from error
    if bad is not None:
        raise CheckpointError(f"{shown(path)} is damaged (wrong checksum of {bad}): use another snapshot.")


class _Hashed:
    """A file for writing that keeps the hash of what goes into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def load_tensors(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """Load what `save_tensors` or `torch.save` wrote; only tensors and plain containers are accepted.

    Raises:
        CheckpointError: the file is missing, truncated, not a torch file, or holds objects other than tensors.
    """
    import torch

    source = Path(path)
    require_regular_file(source, "checkpoint", CheckpointError)
    try:
        return torch.load(source, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is not a file of plain tensors (loading anything else would run its code): "
            f"give a file written by torch.save of a state dict. torch says: {str(error).splitlines()[0]}"
        ) from error
    except PermissionError as error:
        raise CheckpointError(f"{source} may not be read: give yourself permission to read it.") from error
    except Exception as error:  # arbitrary bytes make the unpickler fail in arbitrary ways
        raise CheckpointError(
            f"{source} ({source.stat().st_size} bytes) cannot be read; it is truncated or not a torch file: "
            f"use another snapshot. torch says: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make renames inside `folder` durable, in their order, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
