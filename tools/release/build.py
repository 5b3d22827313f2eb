"""Build the sdist and the wheels of a release into dist/, and check them.

Usage: python tools/release/build.py

dist/ gets the sdist and a wheel for CPUs, dist/cuda/ a wheel that also has CUDA kernels, if nvcc is found: the
environment variables FASTMUNIT_CUDA and FASTMUNIT_CUDA_ARCHS work as in an installation. Both are built from the
sdist, for the Python and against the torch of this environment, and have the same name. Wheels of the same version for
other Pythons stay in dist/. auditwheel replaces the tag linux by the oldest
manylinux tag whose system libraries suffice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from native_compiler import compiles, find_nvcc  # noqa: E402 - this folder alone is on the path

OF_TORCH = ("libtorch*.so", "libc10*.so")
"""Libraries of the installed torch, which a wheel must not contain."""


def run(*command: str | Path, **environment: str) -> None:
    """Run a command, which finds the programs of this environment, and end this program if it fails."""
    print("+", *command, flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path, **environment}, check=False).returncode
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} ended with status {status}")


def build_sdist(temporary: Path) -> Path:
    """Build the sdist and return its path in dist/, from which files of other versions are removed."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", temporary, ROOT)
    (sdist,) = temporary.glob("*.tar.gz")
    if not (DIST / sdist.name).exists():
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
    return Path(shutil.move(sdist, DIST / sdist.name))


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the sdist and return its folder, in which the second wheel reuses the objects of the first."""
    shutil.unpack_archive(sdist, folder)
    (sources,) = folder.iterdir()
    return sources


def build_wheel(sources: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel, give it the platform tag that it supports, and return its path."""
    with tempfile.TemporaryDirectory() as temporary:
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", temporary, sources, **environment)
        (wheel,) = Path(temporary).glob("*.whl")
        if not wheel.stem.endswith("-any"):
            auditwheel = (sys.executable, "-m", "auditwheel")
            run(*auditwheel, "show", wheel)
            excluded = [f"--exclude={pattern}" for pattern in OF_TORCH]
            run(*auditwheel, "repair", "--strip", *excluded, "--wheel-dir", Path(temporary) / "repaired", wheel)
            (wheel,) = Path(temporary).glob("repaired/*.whl")
        folder.mkdir(exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def main() -> None:
    """Run the program."""
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    notes = []
    with tempfile.TemporaryDirectory(prefix="fastmunit-build-") as temporary:
        sdist = build_sdist(Path(temporary))
        sources = unpack(sdist, Path(temporary) / "sources")
        wheels = [build_wheel(sources, DIST, FASTMUNIT_CUDA="0")]
        if not compiles():
            notes.append("The wheel has no compiled module: there is no C++ compiler, or FASTMUNIT_BUILD is 0.")
        elif find_nvcc() is None:
            notes.append(
                "There is no wheel with CUDA: FASTMUNIT_CUDA is 0, or nvcc is neither on PATH nor in CUDA_HOME."
            )
        else:
            wheels.append(build_wheel(sources, DIST / "cuda", FASTMUNIT_CUDA="1"))
    run(sys.executable, ROOT / "tools/release/contents.py", sdist, *wheels)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, *wheels)
    print(*notes, *(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes" for path in (sdist, *wheels)), sep="\n")


if __name__ == "__main__":
    main()
