"""Bugs planted in copies of the kernels' headers, to show that the checks find them where they would be made.

Each bug replaces a piece of text that must occur exactly once in its header. A copy has all of them, each beside what
is right, and runs the one that PLANTED_BUG names: one build for all bugs.
"""

import fcntl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cuda.emulated import ROOT

HEADERS = ROOT / "csrc" / "include" / "fastmunit"


@dataclass(frozen=True)
class Bug:
    """A piece of a header and what is wrong instead of it.

    Attributes:
        header: Name of the file.
        right: An expression, or a statement where it ends in a semicolon; occurs once.
        wrong: The same kind of thing.
        before: Text directly before `right`, to tell it from others.
    """

    header: str
    right: str
    wrong: str
    before: str = ""


BUGS = {
    "reads past the end": Bug(
        "fused_norm_memory.cuh",
        "count - tail",
        "count - tail + 1",
        "copy.template values<1>(from, to, thread, 0);\n  if (thread < ",
    ),
    "writes past the end": Bug(
        "fused_norm.cuh",
        "first < 0 || first + N > count",
        "first < 0",
        "    if (",
    ),
    "shared memory past its end": Bug(
        "fused_norm_plan.h",
        "bytes_before_tiles(a.layout, tiling.channels) + values",
        "values",
        "    return ",
    ),
    "missing barrier": Bug(
        "fused_norm.cuh",
        "__syncthreads();",
        "",
        "  x.stage();\n  ",
    ),
    "missing barrier before reuse": Bug(
        "reductions.cuh",
        "__syncthreads();",
        "",
        "warp = static_cast<int>(threadIdx.x) / warp_threads;\n  ",
    ),
    "missing cluster barrier": Bug(
        "fused_norm.cuh",
        "blocks.sync();",
        "",
        "  if (whole) ",
    ),
    "exits while others read": Bug(
        "fused_norm.cuh",
        "blocks.sync();  // no block may end while another one reads its shared memory",
        "",
        "    ",
    ),
    "wrong mask": Bug(
        "reductions.cuh",
        "0xffffffffu",
        "0x0000ffffu",
        "value += __shfl_xor_sync(",
    ),
    "unwritten output": Bug(
        "fused_norm.cuh",
        "first < count",
        "first < count - N",
        "N - shift; ",
    ),
    "unwritten channels": Bug(
        "fused_norm_channels_last.cuh",
        "columns.vector * N >= tile.channels",
        "columns.vector * N >= tile.channels - N",
        "  if (",
    ),
    "misaligned vector": Bug(
        "fused_norm.cuh",
        "misalignment<line_values<Storage>>(to)",
        "0",
        "const int shift = ",
    ),
    "misaligned read": Bug(
        "fused_norm_memory.cuh",
        "(i - row * chunks.divisor) * N - misalignment<N>(begin)",
        "(i - row * chunks.divisor) * N",
    ),
    "reflects off by one": Bug(
        "pad_index.h",
        "-i",
        "-i - 1",
        "return i < 0 ? ",
    ),
    "folds back off by one": Bug(
        "pad_index.h",
        "2 * (size - 1) - row",
        "2 * (size - 1) - row - 1",
        "behind = ",
    ),
    "tiles write one place": Bug(
        "fused_norm_backward_sums.cuh",
        "tile.row_tile * arguments.planes() + plane",
        "plane",
    ),
    "stages twice": Bug(
        "fused_norm.cuh",
        "x.stage();",
        "x.stage(); x.stage();",
    ),
}
# The copies are compiled for float32 alone, which takes a third of the time.
OTHER_TYPES = """    case DataType::bfloat16:
      return run(__nv_bfloat16{});
    case DataType::float16:
      return run(__half{});
"""


def number_of(name: str) -> int:
    """What PLANTED_BUG is for a bug, 0 for ""."""
    return list(BUGS).index(name) + 1 if name else 0


def plant(text: str, bug: Bug, number: int) -> str:
    """A header with a bug beside what is right."""
    found = text.count(bug.before + bug.right)
    assert found == 1, f"{bug.header} has {bug.before + bug.right!r} {found} times instead of once"
    if ";" in bug.right:
        right, comment = bug.right.split(";", 1)
        both = f"{{ if (planted_bug == {number}) {{ {bug.wrong} }} else {{ {right}; }} }}{comment}"
    else:
        both = f"(planted_bug == {number} ? ({bug.wrong}) : ({bug.right}))"
    return text.replace(bug.before + bug.right, bug.before + both)


def planted_headers() -> dict[str, str]:
    """All headers by name, with all bugs in them."""
    texts = {path.name: path.read_text() for path in HEADERS.iterdir()}
    for number, bug in enumerate(BUGS.values(), start=1):
        texts[bug.header] = plant(texts[bug.header], bug, number)
    for name in {bug.header for bug in BUGS.values()}:
        texts[name] = texts[name].replace("#pragma once\n", '#pragma once\n#include "planted.h"\n', 1)
    launch = "fused_norm_launch.cuh"
    assert texts[launch].count(OTHER_TYPES) == 1
    texts[launch] = texts[launch].replace(OTHER_TYPES, "")
    return texts


@cache
def planted_include() -> Path:
    """The folder to compile with, written where it is not up to date."""
    include = ROOT / "build" / "planted" / "include"
    folder = include / "fastmunit"
    folder.mkdir(parents=True, exist_ok=True)
    with (include.parent / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        texts = planted_headers()
        for stale in {path.name for path in folder.iterdir()} - set(texts):
            (folder / stale).unlink()
        for name, text in texts.items():
            if not (folder / name).exists() or (folder / name).read_text() != text:
                (folder / name).write_text(text)
    return include
