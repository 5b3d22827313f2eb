"""tools/sass.py: its counts for handwritten listings, and for small kernels that nvcc compiles."""

from types import SimpleNamespace

import pytest

from tools.count_instructions import max_bytes_in_flight
from tools.gpu_budget import Budget, Call, Kernel, check, compile_cubin, find_cuobjdump, find_nvcc, kernels_of
from tools.sass import (
    Instruction,
    blocks_of,
    executed_per_thread,
    hot_instructions,
    instructions_of,
    instructions_per_value,
    longest_path,
)

needs_compiler = pytest.mark.skipif(
    find_nvcc() is None or find_cuobjdump() is None, reason="there is no nvcc, or no cuobjdump"
)


def code_of(*lines):
    """Return instructions at 0x00, 0x10, ..., read from a listing in the form of cuobjdump."""
    listing = [f"        /*{16 * k:04x}*/  {line} ;      /* 0x0 */" for k, line in enumerate(lines)]
    return instructions_of("\n".join(["\t\tFunction : kernel", *listing]))["kernel"]


def test_listing():
    code = code_of("@!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10]", "BRA 0x10", "EXIT")
    assert code[0] == Instruction(0, "@!P0", "LDG.E.128", "R4, desc[UR4][R2.64+0x10]")
    assert (code[0].name, code[0].bits, code[0].target) == ("LDG", 128, None)
    assert code[1].target == 16
    assert code[2] == Instruction(32, "", "EXIT", "")
    assert code_of("LDG.E.U16 R4, [R2]")[0].bits == 16


def test_straight_code_counts_once_and_padding_not_at_all():
    assert executed_per_thread(code_of("MOV R0, R1", "NOP", "EXIT", "BRA 0x30", "NOP"), 1) == 2


def test_both_sides_of_a_branch_count():
    code = code_of("@P0 BRA 0x30", "FADD R0, R0, R0", "BRA 0x40", "FMUL R0, R0, R0", "EXIT")
    assert executed_per_thread(code, 1) == 5


RARE = ("@!P0 BRA 0x30", "{mark}", "FADD R0, R0, R0", "EXIT")


@pytest.mark.parametrize(("mark", "count"), [("PMTRIG 0x8000", 2), ("@P1 PMTRIG 0x8000", 4), ("FADD R1, R1, R1", 4)])
def test_marked_code_is_left_out_unless_the_mark_is_conditional(mark, count):
    assert executed_per_thread(code_of(*(line.format(mark=mark) for line in RARE)), 1) == count


def test_code_that_only_rare_code_reaches_is_left_out():
    code = code_of(
        "@!P0 BRA 0x60",
        "PMTRIG 0x8000",
        "@P1 BRA 0x40",
        "BRA 0x60",
        "DADD R0, R0, R0",  # reached only by a branch of the rare code
        "BRA 0x60",
        "EXIT",
    )
    assert [one.name for one in hot_instructions(code)] == ["BRA", "EXIT"]


def test_a_jump_through_a_table_must_be_rare():
    with pytest.raises(ValueError, match="expected branches with a target"):
        executed_per_thread(code_of("BRX R2 -0x10", "EXIT"), 1)
    assert executed_per_thread(code_of("@!P0 BRA 0x30", "PMTRIG 0x8000", "BRX R2 -0x10", "EXIT"), 1) == 2


LOOP = ("MOV R0, R1", "{access}", "FADD R2, R2, R3", "@P0 BRA 0x10", "EXIT")


@pytest.mark.parametrize(
    ("access", "value_bytes", "rounds"),
    [
        ("LDG.E R3, [R0]", 4, 32),
        ("LDG.E.128 R4, [R0]", 4, 8),
        ("LDG.E.128 R4, [R0]", 2, 4),
        ("STG.E.U16 [R0], R3", 2, 32),
        ("LDS.128 R4, [R0]", 2, 8),
        ("FADD R4, R4, R5", 4, 32),
    ],
)
def test_a_loop_counts_until_it_has_moved_the_values_of_a_thread(access, value_bytes, rounds):
    code = code_of(*(line.format(access=access) for line in LOOP))
    assert executed_per_thread(code, 32, value_bytes) == 2 + 3 * rounds


def path_of(*lines, values=1):
    """Return the address and the number of executions of each block of the longest path."""
    blocks = blocks_of(code_of(*lines))
    return [(blocks[k].instructions[0].address, times) for k, times in longest_path(blocks, values)]


def test_a_path_takes_the_longer_side_of_a_branch():
    lines = ("@P0 BRA 0x30", "FADD R0, R0, R0", "BRA 0x60", *["FMUL R0, R0, R0"] * 3, "EXIT")
    assert path_of(*lines) == [(0x00, 1), (0x30, 1), (0x60, 1)]


def test_a_path_contains_each_loop_once():
    """A block that jumps to itself; loops that exit from the start or the end and load one of four values per round."""
    assert path_of("MOV R0, R1", "FADD R0, R0, R0", "@P0 BRA 0x10", "EXIT") == [(0x00, 1), (0x10, 1), (0x30, 1)]
    loop = ("MOV R0, R1", "LDG.E R3, [R0]", "@P1 BRA 0x50", "FADD R2, R2, R3", "BRA 0x10", "EXIT")
    assert path_of(*loop, values=4) == [(0x00, 1), (0x10, 4), (0x30, 4), (0x50, 1)]
    both = ("LDG.E R3, [R0]", "@P1 BRA 0x30", "FADD R2, R2, R3", "@P0 BRA 0x00", "EXIT")
    assert path_of(*both, values=4) == [(0x00, 4), (0x20, 4), (0x30, 4), (0x40, 1)]


def test_a_path_leaves_out_rare_code():
    assert path_of("@!P0 BRA 0x30", "PMTRIG 0x8000", "FADD R0, R0, R0", "EXIT") == [(0x00, 1), (0x30, 1)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("LDG.E.128 R4, [R0]", "LDG.E R8, [R0]", "FADD R1, R4, R8", "LDG.E R9, [R0]"), 20),
        (("LDG.E R2, [R0]", "FADD R1, R2, R2", "LDG.E.128 R4, [R2]", "LDG.E.128 R8, [R2]", "FADD R1, R4, R4"), 32),
        (("LDG.E R2, [R0]", "LDG.E R3, [R2]", "LDG.E R4, [R3]", "FADD R1, R4, R4"), 4),
        (("LDG.E.128 R4, [R0]", "FADD R1, R7, R7", "LDG.E.128 R4, [R0]", "FADD R1, R7, R7"), 16),
    ],
)
def test_loads_are_in_flight_until_one_is_needed(lines, expected):
    assert max_bytes_in_flight(code_of(*lines)) == expected


def test_threads_continue_where_they_converge():
    """After BSYNC follows the target of BSSY: the next instruction or, for code placed elsewhere, another one."""
    code = code_of(
        "BSSY B0, 0x30", "@P0 BRA 0x50", "BSYNC B0", "FADD R0, R0, R0", "EXIT", "FMUL R0, R0, R0", "BSYNC B0"
    )
    blocks = blocks_of(code)
    assert [block.instructions[0].address for block in blocks] == [0x00, 0x20, 0x30, 0x50]
    assert [block.successors for block in blocks] == [[1, 3], [2], [], [2]]


def test_calls_and_divergent_warps():
    code = code_of("CALL.REL.NOINC 0x40", "BRA.DIV UR4, 0x30", "EXIT", "FADD R9, R9, R9", "FMUL R0, R0, R0", "RET.REL")
    assert [one.name for one in hot_instructions(code)] == ["CALL", "BRA", "EXIT", "FMUL", "RET"]


def test_a_call_is_the_sum_of_its_kernels():
    kernels = [SimpleNamespace(code=code_of(*["FADD R0, R0, R0"] * count, "EXIT")) for count in (31, 63)]
    assert instructions_per_value(kernels, 32) == 3.0


def kernel_of(name, *lines):
    return Kernel(name, 90, registers=32, local_bytes=0, shared_bytes=0, code=code_of(*lines))


def test_budgets_of_instructions_can_be_exceeded():
    kernel = kernel_of("k<float, 1>", "DADD R0, R0, R0", *["FADD R0, R0, R0"] * 30, "EXIT")
    limits = {"threads": 256, "registers": 32, "occupancy": 1.0, "values": 8}
    assert check([kernel], [Budget("k<.*>", **limits, instructions=4.0, hot_doubles=1, blocks=8)]) == []
    messages = check([kernel], [Budget("k<.*>", **limits, instructions=3.9, hot_doubles=0, blocks=9)])
    assert [line.split(": ")[1] for line in messages] == [
        "8 blocks per multiprocessor, at least 9",
        "1 hot_doubles, at most 0",
        "4.0 instructions per value, at most 3.9",
    ]


def test_budgets_of_calls_can_be_exceeded():
    lines = [*["FADD R0, R0, R0"] * 31, "EXIT"]
    kernels = [kernel_of(name, *lines) for name in ("k<float, 1>", "k<float, 2>", "k<__half, 2>", "other")]
    assert Call(r"k<(\w+), [12]>", values=8, instructions=8.0).broken_by(kernels) == []
    assert Call(r"k<(\w+), [12]>", values=8, instructions=7.9).broken_by(kernels) == [
        "sm_90 k<float, 1> + k<float, 2>: 8.0 instructions per value, at most 7.9"
    ]
    assert Call("absent", values=8, instructions=8.0).broken_by(kernels) == ["absent: there are no such kernels"]


SOURCE = """
    #include "cuda/portable.cuh"
    // Eight values per thread, and a long loop in the first thread.
    __global__ void border(const float* x, float* y, int n) {
      float sum = 0.0f;
    #pragma unroll
      for (int k = 0; k < 8; ++k) sum += ld_global(x + 256 * k + threadIdx.x);
      if (threadIdx.x == 0) {
        MARK;
    #pragma unroll 1
        for (int k = 0; k < n; ++k) st_plain(y + n + k, sqrt(double(sum)) > k ? 1.0f : 0.0f);
      }
      st_plain(y + threadIdx.x, sum);
    }
    // A loop over the thread's 32 values, four per round.
    __global__ void rounds(const float* x, float* y) {
    #pragma unroll 4
      for (int k = 0; k < 32 * 4; ++k) st_plain(y + 256 * k + threadIdx.x, 2.0f * ld_global(x + 256 * k + threadIdx.x));
    }"""


@needs_compiler
def test_compiled_kernels_are_counted(tmp_path):
    found = {}
    for mark in ("rarely()", ""):
        (tmp_path / "planted.cu").write_text(SOURCE.replace("MARK", mark))
        compile_cubin(tmp_path / "planted.cu", 90, tmp_path / "planted.cubin")
        found[mark] = {kernel.name: kernel for kernel in kernels_of(tmp_path / "planted.cubin", 90)}
    marked, unmarked = found["rarely()"]["border"], found[""]["border"]
    assert marked.doubles > 0
    assert marked.hot_doubles == 0
    assert unmarked.hot_doubles == unmarked.doubles > 0
    assert 8 * 2 <= executed_per_thread(marked.code, 8) < 60 < executed_per_thread(unmarked.code, 8)
    rounds = found[""]["rounds"]
    # At least a load, a multiplication and a store per value; at most also the computation of addresses.
    assert 3.0 <= rounds.instructions_per_value(128) <= 6.0
