"""Atomic file writes, checks of paths, and tensor files with checksums."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastmunit.errors import CheckpointError, FastmunitError

if TYPE_CHECKING:
    import torch


# Limits of Linux and macOS.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095
# Control characters, separators of lines, and changes of the direction of text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file next to `path` for writing, and rename it to `path` when the block succeeds.

    The data are flushed to disk before the rename: a crash leaves either the old or the new file. If the block raises,
    the old file is unchanged and the temporary file is removed.

    Args:
        path: File to replace or create. Its folder is created. If it is a link, the file that it leads to is replaced,
            and the link stays.
        mode: "wb", or "w" for UTF-8 text.

    Raises:
        FastmunitError: If the folder or the file cannot be written (read-only, disk full, a parent is a file).
    """
    partial: str | None = None
    try:
        target = _target(Path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".partial")
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o666 & ~_umask())
        os.replace(partial, target)  # noqa: PTH105 - tests replace it
        partial = None
        _flush_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FastmunitError(
            f"cannot write {printable(path)}: {reason}. Free some space or choose a folder you can write to; "
            "an existing file is unchanged."
        ) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                Path(partial).unlink()


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path that links lead to. `Path.resolve` raises RuntimeError for links that go in circles."""
    return Path(os.path.realpath(path))


def _target(path: Path) -> Path:
    """Return the file to replace for a path: the one that it leads to if it is a link.

    Raises:
        OSError: If it can be no file. `strerror` is the reason.
    """
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        reason = "is a link that leads nowhere" if folder.is_symlink() else "is not a folder"
        raise OSError(None, f"{printable(folder)} {reason}")
    target = resolved(path) if path.is_symlink() else path
    if target.is_symlink() or (target is not path and not target.parent.is_dir()):
        raise OSError(None, "it is a link that leads nowhere")
    kind = _special_kind(target.stat().st_mode) if target.exists() else None
    if kind is not None:
        raise OSError(None, f"it is {kind}")
    return target


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path, or a name from a file, as one line of text.

    Bytes that are not UTF-8 are escaped, and characters that a terminal would obey: names may come from strangers.
    """
    text = os.fsdecode(path)
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no file name has, from JSON
        encoded = text.encode("utf-8", "backslashreplace")
    text = encoded.decode("utf-8", "backslashreplace")
    return _OBEYED.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def is_unicode(text: str) -> bool:
    """Return True if a text can be encoded as UTF-8. File names that are not UTF-8 have lone surrogates in Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def unicode_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the path of a file for a library that opens none whose path is not UTF-8.

    In place of such a path, it is that of a descriptor, which is open inside the block.

    Raises:
        OSError: If the file cannot be opened.
    """
    text = os.fspath(path)
    if is_unicode(text):
        yield text
        return
    with Path(text).open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def expand(path: str) -> str:
    """Expand a leading "~" and every "$VARIABLE" of a path, unless the path exists as written.

    A variable that is not set is left unchanged.

    Raises:
        ValueError: If the path has a null character or more bytes than file systems allow.
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
    """Check that `path` is a regular file, without opening it, since opening a FIFO or a device may block forever.

    Args:
        path: Path to check. Links are followed.
        what: Kind of file, as the first word of the message ("image", "configuration").
        error: Class of the error to raise.

    Raises:
        FastmunitError: An `error` if the file is missing or not a regular file, or its name is not valid.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as cause:
        raise error(f"{what} {printable(path)} does not exist: check the path.") from cause
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the name
        reason = cause.strerror if isinstance(cause, OSError) else str(cause)
        raise error(f"{what} {printable(path)} cannot be read ({reason}): check the path.") from cause
    kind = _special_kind(mode)
    if kind is not None:
        raise error(f"{what} {printable(path)} is {kind}, not a regular file: give the path of a file.")


def _special_kind(mode: int) -> str | None:
    """Return what a file is that is not a regular one, with an article. None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def require_writable(*paths: str | os.PathLike[str]) -> None:
    """Check that files can be written, before the work that produces their content.

    The check creates no named files or folders, which could disturb other processes that check the same paths.

    Raises:
        FastmunitError: If `atomic_write` would raise for a path, or a path is a folder.
    """
    tried: set[Path] = set()
    for path in map(Path, paths):
        try:
            nearest = next(folder for folder in _target(path).absolute().parents if folder.exists())
            if nearest not in tried:
                with tempfile.TemporaryFile(dir=nearest) as file:
                    file.write(bytes(4096))
                tried.add(nearest)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot write {printable(path)}: {reason}. Free some space or choose a folder you can write to."
            ) from error


def require_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Check that no file that is read would be overwritten.

    Raises:
        FastmunitError: If one would be. The message names it.
    """
    protected = set(map(resolved, read))
    for path in written:
        if resolved(path) in protected:
            raise FastmunitError(f"{printable(path)} is an input and would be overwritten: choose another output.")


def require_outside(output: Path, read: Iterable[Path]) -> None:
    """Check that an output folder is in no folder that is read: the next call would read its outputs, too.

    Raises:
        FastmunitError: If it is in one.
    """
    place = resolved(output)
    for folder in (path for path in read if path.is_dir()):
        if resolved(folder) in (place, *place.parents):
            raise FastmunitError(
                f"output {printable(output)} is in the input folder {printable(folder)}: choose a folder outside it."
            )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, with `atomic_write`, which may raise FastmunitError."""
    with atomic_write(path, "w") as file:
        file.write(text)


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file for this process. Return False if another process has locked it.

    The system releases the lock when the file is closed in all processes. Where there are no locks, this does nothing.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock; the user must not start two processes in one folder there
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def save_tensors(obj: Any, path: str | os.PathLike[str]) -> None:
    """Save tensors, or dicts and lists of tensors, with `torch.save` and `atomic_write`.

    Raises:
        FastmunitError: If the file cannot be written.
    """
    with staged_tensors(obj, path):
        pass


@contextmanager
def staged_tensors(obj: Any, path: str | os.PathLike[str]) -> Iterator[str]:
    """Write a file like `save_tensors` next to `path`, and rename it to `path` when the block succeeds.

    Yields:
        The `digest` of the file.

    Raises:
        FastmunitError: If the file cannot be written.
    """
    import torch

    with atomic_write(path) as file:
        hashed = _Hashed(file)
        checksums = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(True)  # for `require_sound`
        try:
            torch.save(obj, hashed)  # type: ignore[arg-type]  # it needs only write and flush
        except RuntimeError as error:  # torch's zip writer reports a failed write (disk full) as RuntimeError
            raise OSError(None, str(error).splitlines()[0]) from error
        finally:
            torch.serialization.set_crc32_options(checksums)
        yield hashed.hash.hexdigest()


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
        return sha.hexdigest()
    except OSError as error:
        raise CheckpointError(f"{printable(path)} cannot be read ({error.strerror}): check the file.") from error


def require_sound(path: str | os.PathLike[str]) -> None:
    """Verify the checksums in a file written by `save_tensors`, which `torch.load` ignores.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{printable(path)} is damaged ({error}): use another checkpoint.") from error
    if bad is not None:
        raise CheckpointError(f"{printable(path)} is damaged (wrong checksum of {bad}): use another checkpoint.")


class _Hashed:
    """A file for writing that computes the hash of its content."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _require_uncompressed(path: Path) -> None:
    """Refuse a torch file whose entries are larger than the file, as those that `torch.save` writes never are.

    Torch decompresses an entry before it compares its size with that of the tensor.

    Raises:
        CheckpointError: If the sum of their sizes is larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
        if size <= path.stat().st_size:
            return
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # torch says what is wrong with it, or it has the old format, which is no zip file
    raise CheckpointError(
        f"{printable(path)} has compressed entries of {size:,} bytes, and torch.save never compresses: get the "
        "checkpoint from its source again."
    )


def load_tensors(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """Load a file written by `save_tensors` or `torch.save`. Only tensors and plain containers are accepted.

    Raises:
        CheckpointError: If the file is missing, truncated, not a torch file, or contains objects other than tensors.
    """
    import torch

    source = Path(path)
    require_regular_file(source, "checkpoint", CheckpointError)
    _require_uncompressed(source)
    try:
        return torch.load(source, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is not a file of plain tensors (loading anything else would run its code): "
            f"give a file that torch.save wrote from a state dict. torch says: {str(error).splitlines()[0]}"
        ) from error
    except PermissionError as error:
        raise CheckpointError(
            f"{source} cannot be read: permission denied. Change the permissions of the file."
        ) from error
    except Exception as error:  # the unpickler may raise anything for arbitrary bytes
        raise CheckpointError(
            f"{source} ({source.stat().st_size} bytes) cannot be read; it is truncated or not a torch file: "
            f"use another checkpoint. torch says: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Write renames inside `folder` to disk, on systems that can."""
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
