"""The machine code of the CUDA kernels has no warnings, no spills and no local memory, and stays within budget.yaml."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tools import count_instructions
from tools.gpu_budget import (
    SOURCES,
    Budget,
    Kernel,
    check,
    compile_cubin,
    extract_cubins,
    find_cuobjdump,
    find_nvcc,
    kernels_of,
    markdown_cells,
    markdown_name,
    nvcc_release,
    read_budget,
    read_calls,
)

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (80, 90, 100)
# Largest relative difference between the instruction counts of bench/kernel_counts.yaml and the machine code.
STALE = 0.05
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")
needs_cuobjdump = pytest.mark.skipif(find_cuobjdump() is None, reason="there is no cuobjdump, Triton's or CUDA's")


def compiled(source, arch, folder):
    try:
        compile_cubin(source, arch, folder / "kernels.cubin")
    except subprocess.CalledProcessError as error:
        pytest.fail(error.stderr)
    return folder / "kernels.cubin"


@needs_cuobjdump
def test_built_kernels_are_within_their_budget(tmp_path):
    """Read the machine code of the extension, which takes a tenth of the time of compiling it again."""
    extension = pytest.importorskip("fastmunit._C", reason="the extension was not built")
    if extension.build_config()["cuda"] is None:
        pytest.skip("the extension was built without CUDA")
    cubins = extract_cubins(Path(extension.__file__), count_instructions.ARCH, tmp_path)
    if not cubins:
        pytest.skip(f"the extension has no machine code for compute capability {count_instructions.ARCH / 10}")
    built = [kernels_of(cubin, count_instructions.ARCH) for cubin in cubins]
    release = ".".join(extension.build_config()["cuda"].split(".")[:2])
    for source in SOURCES:
        names = re.compile("|".join(budget.kernel for budget in read_budget()[source.stem]))
        of_source = [kernels for kernels in built if any(names.fullmatch(kernel.name) for kernel in kernels)]
        assert len(of_source) == 1, f"expected the kernels of {source.name} in one file"
        check_source(source, count_instructions.ARCH, of_source[0], release)


@pytest.mark.first
@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiled_kernels_are_within_their_budget(source, arch, tmp_path):
    cubin = compiled(source, arch, tmp_path)  # fails on any warning, spill or local memory
    if find_cuobjdump() is None:
        pytest.skip("compiled without a warning; there is no cuobjdump to read more from it")
    check_source(source, arch, kernels_of(cubin, arch), nvcc_release())


def check_source(source, arch, kernels, release):
    """Check the kernels of a source that this release of CUDA has compiled."""
    assert kernels
    budgets = read_budget()[source.stem]
    broken = check(kernels, budgets)
    broken += [line for call in read_calls().get(source.stem, []) for line in call.broken_by(kernels)]
    assert not broken, "\n".join(broken)
    # The documented figures are those of one compiler version.
    text = (ROOT / "docs/project/gpu.md").read_text()
    if f"nvcc {release}" in text:
        for budget in budgets:
            cells = documented(text, budget)
            assert [cell.split(" / ")[ARCHITECTURES.index(arch)] for cell in cells] == markdown_cells(
                kernels, budget
            ), "docs/project/gpu.md is not up to date: run python -m tools.gpu_budget --markdown"
    if arch == count_instructions.ARCH and source in count_instructions.SOURCES:
        stale = out_of_date(kernels, release)
        assert not stale, "run python -m tools.count_instructions > bench/kernel_counts.yaml"


def out_of_date(kernels, release):
    """Return the kernels whose counts are missing, different or superfluous, if this release has written the file."""
    written_by, written = count_instructions.read_counts()
    if release != written_by:
        return []
    found = count_instructions.all_counts(kernels)
    is_backward = any("backward" in name for name in found)
    of_source = {name: counts for name, counts in written.items() if ("backward" in name) == is_backward}
    changed = [name for name, counts in found.items() if name in written and differ(written[name], counts)]
    return sorted({*changed, *found.keys() ^ of_source.keys()})


def differ(written, found):
    def total(counts):
        return counts.load + counts.sums + counts.write

    same = ("values", "registers", "shared_bytes", "in_flight", "barriers")
    return (
        any(getattr(written, name) != getattr(found, name) for name in same)
        or abs(total(written) - total(found)) > STALE * total(found)
        or abs(written.again - found.again) > STALE * total(found)
    )


def test_stale_instruction_counts_are_found():
    counts = count_instructions.Counts(32, 64, 0, 128, 4, load=100, sums=200, write=300, again=0)
    assert not differ(replace(counts, load=90, write=320), counts)
    for change in ({"write": 269}, {"write": 331}, {"registers": 65}, {"again": 31}):
        assert differ(replace(counts, **change), counts)


def documented(text, budget):
    """Return the cells of a row of the table in docs/project/gpu.md, after the number of threads."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {markdown_name(budget)} |")]
    assert len(rows) == 1, f"docs/project/gpu.md has {len(rows)} rows for {budget.kernel}"
    return rows[0].removeprefix(f"| {markdown_name(budget)} |").strip(" |").split(" | ")[1:]


def test_each_budget_is_documented():
    text = (ROOT / "docs/project/gpu.md").read_text()
    assert re.search(r"nvcc \d+\.\d+", text)
    for budgets in read_budget().values():
        for budget in budgets:
            assert [len(cell.split(" / ")) for cell in documented(text, budget)] == [len(ARCHITECTURES)] * 4


def test_each_source_has_a_budget():
    assert sorted(read_budget()) == [source.stem for source in SOURCES]


PLANTED = {
    "spills": """
        __global__ void __launch_bounds__(1024, 2) spills(const float* x, float* y) {
          float v[64];
          for (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];
          for (int r = 0; r < 64; ++r) for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + r) % 64] + r;
          for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = v[i];
        }""",
    "local_memory": """
        __global__ void local_memory(const float* x, float* y, int n) {
          float v[8] = {};
          for (int i = 0; i < n; ++i) v[(i * i + threadIdx.x) % 8] += x[i];
          for (int i = 0; i < n; ++i) y[i] = v[(i * n + threadIdx.x) % 8];
        }""",
    "unused_variable": "__global__ void unused_variable(float* y) { int unused = 0; *y = 1; }",
}


@needs_nvcc
@pytest.mark.parametrize(
    ("name", "message"),
    [("spills", "spill"), ("local_memory", "Local memory used"), ("unused_variable", "never referenced")],
)
def test_the_compiler_finds_planted_faults(name, message, tmp_path):
    source = tmp_path / "planted.cu"
    source.write_text(PLANTED[name])
    with pytest.raises(subprocess.CalledProcessError) as raised:
        compile_cubin(source, 80, tmp_path / "planted.cubin")
    assert message in raised.value.stderr + raised.value.stdout


@needs_nvcc
@needs_cuobjdump
def test_narrow_accesses_are_found(tmp_path):
    """Compare loads and stores of eight half-precision values at a time with one value at a time."""
    source = tmp_path / "copy.cu"
    source.write_text("""
        #include "cuda/convert.cuh"
        using fastmunit::cuda::Chunk;
        template <class Value>
        __global__ void copy(const Value* x, Value* y) { st_global(y + threadIdx.x, ld_global(x + threadIdx.x)); }
        template __global__ void copy(const Chunk<__half, 8>*, Chunk<__half, 8>*);
        template __global__ void copy(const __half*, __half*);""")
    kernels = kernels_of(compiled(source, 80, tmp_path), 80)
    widths = {kernel.name: dict(kernel.accesses) for kernel in kernels}
    assert widths == {"copy<Chunk<__half, 8> >": {128: 2}, "copy<__half>": {16: 2}}
    budget = Budget("copy<.*>", threads=256, registers=32, occupancy=1.0, wide=2)
    assert [line for line in check(kernels, [budget]) if "copy<Chunk" in line] == []
    narrow = check(kernels, [budget])
    assert len(narrow) == 2
    assert "0 accesses of 128 bits, at least 2" in narrow[0]
    assert "2 narrower accesses, at most 0" in narrow[1]


def test_each_limit_can_be_exceeded():
    kernel = Kernel("k", 80, registers=64, local_bytes=8, shared_bytes=0)
    messages = "\n".join(
        check([kernel], [Budget("k", threads=256, registers=63, occupancy=0.75), Budget("other", 1, 1, 0.0)])
    )
    assert "64 registers, at most 63" in messages
    assert "8 bytes of local memory" in messages
    assert "occupancy 0.50, at least 0.75" in messages
    assert "other: there is no such kernel" in messages
    assert "k: 0 rows" in check([kernel], [])[0]
    assert "k: 2 rows" in check([kernel], [Budget("k", 1, 64, 0.0), Budget("k.?", 1, 64, 0.0)])[0]


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "dynamic", "expected"),
    [
        (80, 32, 0, 256, 0, 1.0),
        (80, 64, 64, 256, 0, 0.5),  # 1024 threads for 65,536 registers
        (90, 40, 0, 1024, 0, 0.5),  # a second block of 1024 threads needs 81,920 registers
        (90, 32, 0, 256, 100 * 1024, 0.25),  # two blocks of 101 KiB in 228 KiB
        (120, 32, 0, 512, 0, 1.0),  # three blocks for 1536 threads
    ],
)
def test_occupancy(arch, registers, shared, threads, dynamic, expected):
    assert Kernel("k", arch, registers, 0, shared).occupancy(threads, dynamic) == expected
