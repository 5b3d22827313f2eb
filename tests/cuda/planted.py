"""Bugs planted in copies of the kernel headers, to show that the checks find bugs in the real kernels.

Each bug replaces a piece of text that must occur exactly once in its header. The copies contain all bugs besides the
correct code and run the one that PLANTED_BUG selects, so one build serves all bugs.
"""

import fcntl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cuda.emulated import ROOT

SOURCES = ROOT / "csrc"


@dataclass(frozen=True)
class Bug:
    """A piece of a header and its faulty replacement.

    Attributes:
        header: Path of the header, relative to csrc.
        right: The correct text: an expression, or a statement if it ends with a semicolon.
        wrong: The faulty replacement, of the same kind.
        before: Text directly before `right`, which makes the match unique.
    """

    header: str
    right: str
    wrong: str
    before: str = ""


BUGS = {
    "reads past the end": Bug(
        "fused_norm/forward.cuh",
        "pixel < end",
        "pixel < end + cover.step_pixels",
        "    if (",
    ),
    "writes past the end": Bug(
        "fused_norm/forward.cuh",
        "left <= u * pitch",
        "left + unit_values <= u * pitch",
        "    }\n#pragma unroll\n    for (int u = 0; u < units; ++u) {\n      if (",
    ),
    "shared memory past its end": Bug(
        "fused_norm/tile.cuh",
        "warp * columns + of_lane * count + first + k",
        "block_warps * max_lane_sums + k",
        "scratch[",
    ),
    "missing barrier": Bug(
        "fused_norm/tile.cuh",
        "__syncthreads();",
        "",
        "] = values[k];\n  }\n  ",
    ),
    "missing barrier after sums": Bug(
        "fused_norm/tile.cuh",
        "__syncthreads();",
        "",
        "    sums[thread] = sum;\n  }\n  ",
    ),
    "missing cluster barrier": Bug(
        "fused_norm/forward.cuh",
        "blocks.sync();",
        "",
        "% largest_cluster);\n  ",
    ),
    "exits while others read": Bug(
        "fused_norm/forward.cuh",
        "blocks.wait();",
        "",
        "from + to_pad));\n        }\n      }\n    }\n    ",
    ),
    "wrong mask": Bug(
        "fused_norm/tile.cuh",
        "0xffffffffu",
        "0x0000ffffu",
        "value += __shfl_xor_sync(",
    ),
    "union without counts": Bug(
        "fused_norm/tile.cuh",
        "mine.count * difference",
        "difference",
        "__fdividef(sum_of_lanes<width>(",
    ),
    "union of a cluster without counts": Bug(
        "fused_norm/forward.cuh",
        "set.count * (set.center - center + set.offset)",
        "set.center - center + set.offset",
        "differences += ",
    ),
    "tiles leave moments in one place": Bug(
        "fused_norm/forward.cuh",
        "number_in_group(a, arguments.cover, tile)",
        "0",
        "arguments.tiles_of_group + ",
    ),
    "reads before it waits": Bug(
        "fused_norm/forward.cuh",
        "wait_for_previous_launch();",
        "",
        "mode == Mode::apply && arguments.split) ",
    ),
    "combines before it waits": Bug(
        "fused_norm/forward.cuh",
        "wait_for_previous_launch();",
        "",
        "  start_dependent_launch();\n  ",
    ),
    "does not start the next launch": Bug(
        "fused_norm/forward.cuh",
        "start_dependent_launch();",
        "",
        "  SMEM_ARRAY(float, tile_shared, block_threads * tile_values);\n  if constexpr (mode == Mode::reduce) ",
    ),
    "unwritten column of the pad": Bug(
        "fused_norm/forward.cuh",
        "lane >= 1 && lane <= a.pad",
        "lane >= 2 && lane <= a.pad",
        "writes_left = ",
    ),
    "unwritten row of the pad": Bug(
        "fused_norm/forward.cuh",
        "i < targets.count()",
        "i < targets.count() - 1",
        "for (int i = 1; ",
    ),
    "unwritten corner of the pad": Bug(
        "fused_norm/tile.cuh",
        "i == 0 ? 1 : 0",
        "1",
        "for (int j = ",
    ),
    "unwritten pad of small maps": Bug(
        "fused_norm/tile.cuh",
        "axis > 2 * first ? axis - 2 * first : 0",
        "axis - 2 * first",
        "    size = ",
    ),
    "unwritten channels": Bug(
        "fused_norm/forward.cuh",
        "lane * C < tile.channels",
        "lane * C < tile.channels - C",
        "inside = ",
    ),
    "unwritten vector": Bug(
        "fused_norm/forward.cuh",
        "padded_vectors &= padded_vectors - 1",
        "padded_vectors = 0",
        "for (; padded_vectors != 0; ",
    ),
    "misaligned vector": Bug(
        "fused_norm/plan.h",
        "reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0",
        "true",
        "  return ",
    ),
    "exchanges phases in the wrong direction": Bug(
        "fused_norm/tile.cuh",
        "upper ? words[k] : words[k + distance]",
        "upper ? words[k + distance] : words[k]",
        "__shfl_xor_sync(0xffffffffu, ",
    ),
    "reflects off by one": Bug(
        "common/pad_index.h",
        "row >= 1 && row <= pad ? 1 : 0",
        "row >= 0 && row < pad ? 1 : 0",
        "count_before = ",
    ),
    "loads twice": Bug(
        "fused_norm/forward.cuh",
        "load_any(a.x, x + place(pixel), a.dtype)",
        "0.5f * load_any(a.x, x + place(pixel), a.dtype) + 0.5f * load_any(a.x, x + place(pixel), a.dtype)",
        "mine[u * block_threads] = ",
    ),
    "folds back off by one": Bug(
        "common/pad_index.h",
        "2 * (size - 1) - row",
        "2 * (size - 1) - row - 1",
        "behind = ",
    ),
    "backward reads past the end": Bug(
        "fused_norm/backward.cuh",
        "pixel < end",
        "pixel < end + cover.step_pixels",
        "      if (",
    ),
    "backward writes past the end": Bug(
        "fused_norm/backward.cuh",
        "!kept(r)",
        "!kept(r - 1)",
        "static_cast<Storage*>(a.dx) + at;\n#pragma unroll\n    for (int r = 0; r < rows; ++r) {\n      if (",
    ),
    "backward uses shared memory past its end": Bug(
        "fused_norm/backward.cuh",
        "dz_shared + thread",
        "dz_shared + thread + block_threads * backward_values",
        "float* const my_dz = ",
    ),
    "backward misses the cluster's barrier": Bug(
        "fused_norm/backward.cuh",
        "blocks.sync();",
        "",
        "static_cast<int>(threadIdx.x);\n  ",
    ),
    "backward exits while others read": Bug(
        "fused_norm/backward.cuh",
        "blocks.wait();",
        "",
        "    write();\n    ",
    ),
    "backward reads before it waits": Bug(
        "fused_norm/backward.cuh",
        "wait_for_previous_launch();",
        "",
        "    if (arguments.split) {\n      ",
    ),
    "backward combines before it waits": Bug(
        "fused_norm/backward.cuh",
        "wait_for_previous_launch();",
        "",
        "  start_dependent_launch();\n  ",
    ),
    "backward does not start the next launch": Bug(
        "fused_norm/backward.cuh",
        "start_dependent_launch();",
        "",
        "copies at most one of a warp's rows\n  FASTMUNIT_BACKWARD_SHARED(shared);\n"
        "  if constexpr (mode != Mode::apply) ",
    ),
    "tiles leave sums in one place": Bug(
        "fused_norm/backward.cuh",
        "plane * arguments.cover.tiles + tile.index",
        "plane * arguments.cover.tiles",
        "st_plain(arguments.of_planes + ",
    ),
    "sums of one tile alone": Bug(
        "fused_norm/backward.cuh",
        "rank < blocks.count",
        "rank < 1",
        "for (int rank = 0; ",
    ),
    "sums of a sample without weights": Bug(
        "fused_norm/backward.cuh",
        "weight * shared.sums[thread].product",
        "shared.sums[thread].product",
        "shared.sums[thread].dz, ",
    ),
    "gradients of one sample alone": Bug(
        "fused_norm/backward.cuh",
        "all.weight += of_sample.weight;",
        "all.weight = of_sample.weight;",
    ),
    "a column of the pad is not folded": Bug(
        "fused_norm/backward.cuh",
        "lane - sides.first",
        "lane - sides.first - 1",
        "takes_left = static_cast<unsigned>(",
    ),
    "a row of the pad is not folded": Bug(
        "fused_norm/backward.cuh",
        "i < targets.count()",
        "i < targets.count() - 1",
        "for (int i = 1; ",
    ),
    "a corner of the pad is not folded": Bug(
        "fused_norm/backward.cuh",
        "added[0] += takes_left ? corner : 0.0f;",
        "",
    ),
    "folds to the next lane": Bug(
        "fused_norm/backward.cuh",
        "31 - lane - sides.first",
        "30 - lane - sides.first",
        "takes_right = static_cast<unsigned>(",
    ),
    "a round loads the first one's values": Bug(
        "fused_norm/backward.cuh",
        "done * cover.step_pixels",
        "0",
        "cover.pixels_before(thread) + ",
    ),
    "backward loads twice": Bug(
        "fused_norm/backward.cuh",
        "widen(ld_global(static_cast<const Storage*>(a.x) + place(pixel)))",
        "0.5f * widen(ld_global(static_cast<const Storage*>(a.x) + place(pixel))) + "
        "0.5f * widen(ld_global(static_cast<const Storage*>(a.x) + place(pixel)))",
        "my_x[u * block_threads] = ",
    ),
}
# The copies are compiled for float32 only, which takes a third of the time.
OTHER_TYPES = """    case DataType::bfloat16:
      return run(__nv_bfloat16{});
    case DataType::float16:
      return run(__half{});
"""


def number_of(name: str) -> int:
    """Return the value of PLANTED_BUG that selects a bug; 0 for ""."""
    return list(BUGS).index(name) + 1 if name else 0


def plant(text: str, bug: Bug, number: int) -> str:
    """Return a header that contains both the correct code and the bug."""
    found = text.count(bug.before + bug.right)
    assert found == 1, f"{bug.header} has {bug.before + bug.right!r} {found} times instead of once"
    if ";" in bug.right:
        right, comment = bug.right.split(";", 1)
        both = f"{{ if (planted_bug == {number}) {{ {bug.wrong} }} else {{ {right}; }} }}{comment}"
    else:
        both = f"(planted_bug == {number} ? ({bug.wrong}) : ({bug.right}))"
    return text.replace(bug.before + bug.right, bug.before + both)


def planted_headers() -> dict[str, str]:
    """Return all headers by their path in csrc, with all bugs planted."""
    paths = [path for folder in ("common", "cuda", "fused_norm") for path in (SOURCES / folder).glob("*.*h")]
    texts = {path.relative_to(SOURCES).as_posix(): path.read_text() for path in paths}
    for number, bug in enumerate(BUGS.values(), start=1):
        texts[bug.header] = plant(texts[bug.header], bug, number)
    for name in {bug.header for bug in BUGS.values()}:
        texts[name] = texts[name].replace("#pragma once\n", '#pragma once\n#include "planted.h"\n', 1)
    launcher = "cuda/launch.cuh"
    assert texts[launcher].count(OTHER_TYPES) == 1
    texts[launcher] = texts[launcher].replace(OTHER_TYPES, "")
    return texts


@cache
def planted_include() -> Path:
    """Write the headers that have changed and return the include folder."""
    include = ROOT / "build" / "planted" / "sources"
    include.mkdir(parents=True, exist_ok=True)
    with (include.parent / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        texts = planted_headers()
        for path in [path for path in include.rglob("*") if path.is_file()]:
            if path.relative_to(include).as_posix() not in texts:
                path.unlink()
        for name, text in texts.items():
            path = include / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
    return include
