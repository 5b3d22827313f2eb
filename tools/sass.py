"""Count the instructions that a thread of a CUDA kernel executes, from the machine code (cuobjdump -sass).

The count walks the basic blocks and needs neither a GPU nor a profile:

- Straight code counts once. A loop counts until its loads, or stores, have moved as many values as a thread holds.
- Both sides of each branch count. A kernel has code for all options, but a thread executes one, so this is an upper
  bound.
- Code that the source marks with `rarely()` (portable.cuh), and code that is reachable only through it, does not count:
  the copies of the padding at the border, and the work of one warp per block for a group (parameters, statistics in
  float64). `rarely()` is the instruction PMTRIG. If the compiler made it conditional, its block counts.

Usage:
    kernels = gpu_budget.kernels_of(cubin, 90)
    instructions_per_value([reduce, apply], values=32)    # of a call: the sum over its kernels
    executed_per_thread(apply.code, values=32)    # of one kernel
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

MARK = "PMTRIG"  # the instruction of rarely()


@dataclass(frozen=True)
class Instruction:
    """An instruction of machine code.

    Attributes:
        address: Bytes from the kernel's first instruction.
        predicate: Predicate such as "@!P0", or "" if the instruction is unconditional.
        opcode: Opcode with modifiers, such as "LDG.E.128".
        operands: Text after the opcode.
    """

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def target(self) -> int | None:
        """The target address of a branch, or None."""
        match = re.search(r"(?:^|[ ,])0x([0-9a-f]+)$", self.operands)
        return int(match[1], 16) if match else None

    @property
    def bits(self) -> int:
        """Bits per thread of a load or store."""
        for bits in (128, 64, 16, 8):
            if re.search(rf"\.[US]?{bits}(\.|$)", self.opcode):
                return bits
        return 32


class HasCode(Protocol):
    """A kernel with its machine code."""

    code: list[Instruction]


def instructions_of(sass: str) -> dict[str, list[Instruction]]:
    """Return the instructions of each kernel in the output of cuobjdump -sass."""
    kernels: dict[str, list[Instruction]] = {}
    instructions: list[Instruction] = []
    pattern = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?(\S+?)(?:\s+([^;]*?))?\s*;")
    for line in sass.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            instructions = kernels.setdefault(match[1], [])
        elif match := pattern.match(line):
            address, predicate, opcode, operands = match.groups()
            instructions.append(Instruction(int(address, 16), (predicate or "").strip(), opcode, operands or ""))
    return kernels


@dataclass(frozen=True)
class Block:
    """A basic block: its instructions and the indices of the blocks that may follow."""

    instructions: list[Instruction]
    successors: list[int]

    @property
    def rare(self) -> bool:
        """True if the source marks the block with rarely()."""
        return any(one.name == MARK and not one.predicate for one in self.instructions)

    @property
    def executed(self) -> int:
        """Number of instructions without NOPs."""
        return sum(one.name != "NOP" for one in self.instructions)


def _goes_on(last: Instruction) -> bool:
    """Return true if the next instruction may follow, which it does not after an unconditional jump or exit."""
    divergent = last.opcode.startswith("BRA.DIV")
    conditional = last.predicate or divergent or (last.name == "BRA" and re.match(r"!?U?P\w+,", last.operands))
    return bool(conditional) or last.name not in ("BRA", "EXIT", "RET", "JMP", "BRX", "JMX")


def _jumps_to(last: Instruction) -> int | None:
    """Return the target of a branch or call, except for BRA.DIV, which handles divergent warps."""
    return last.target if last.name in ("BRA", "CALL", "JMP") and not last.opcode.startswith("BRA.DIV") else None


def blocks_of(instructions: list[Instruction]) -> list[Block]:
    """Return the basic blocks, starting with the entry of the kernel.

    A convergence barrier (BSYNC) continues at the target of its BSSY, usually the next instruction. If that is not a
    target, the targets of all BSSY of the same barrier may follow.
    """
    ends = {"BRA", "EXIT", "RET", "CALL", "JMP", "BRX", "JMX", "BSYNC"}
    joins: dict[str, set[int]] = {}
    for one in instructions:
        if one.name == "BSSY" and one.target is not None:
            joins.setdefault(one.operands.split(",")[0], set()).add(one.target)
    leaders = {instructions[0].address} if instructions else set()
    for one, following in pairwise(instructions):
        if one.name in ends:
            leaders.add(following.address)
        if one.target is not None and one.name in {"BRA", "CALL", "JMP", "BSSY"}:
            leaders.add(one.target)
    cut: list[list[Instruction]] = []
    for one in instructions:
        if one.address in leaders:
            cut.append([])
        cut[-1].append(one)
    number = {block[0].address: k for k, block in enumerate(cut)}
    blocks = []
    for k, block in enumerate(cut):
        last = block[-1]
        follows: set[int] = {k + 1} if _goes_on(last) and k + 1 < len(cut) else set()
        jump = _jumps_to(last)
        to = {jump} if jump is not None else set()
        if last.name == "BSYNC" and (k + 1 == len(cut) or cut[k + 1][0].address not in joins.get(last.operands, set())):
            to |= joins.get(last.operands, set())
        blocks.append(Block(block, sorted(follows | {number[address] for address in to if address in number})))
    return blocks


def hot_blocks(blocks: list[Block]) -> list[int]:
    """Return the indices of the blocks that are reachable from the first one without passing a rare one.

    Raises:
        ValueError: If one of them ends with a jump through a table, whose targets are unknown.
    """
    found: set[int] = set()
    left = [0] if blocks else []
    while left:
        k = left.pop()
        if k in found or blocks[k].rare:
            continue
        if blocks[k].instructions[-1].name in ("BRX", "JMX"):
            raise ValueError(
                f"expected branches with a target, got {blocks[k].instructions[-1]} in code that is not rare"
            )
        found.add(k)
        left += blocks[k].successors
    return sorted(found)


def _follows(blocks: list[Block], among: Iterable[int], but: int | None = None) -> dict[int, list[int]]:
    """Return the successors of each of some blocks that are among these blocks and not `but`."""
    members = set(among)
    return {k: [to for to in blocks[k].successors if to in members and to != but] for k in among}


def _reached(follows: dict[int, list[int]]) -> dict[int, set[int]]:
    """Return the blocks that are reachable from each block in at least one step."""
    reached: dict[int, set[int]] = {}
    for first in follows:
        seen: set[int] = set()
        left = [first]
        while left:
            steps = [k for k in follows[left.pop()] if k not in seen]
            seen.update(steps)
            left += steps
        reached[first] = seen
    return reached


def _loops(reached: dict[int, set[int]]) -> list[list[int]]:
    """Return the blocks of each outermost loop."""
    loops: list[list[int]] = []
    for k in reached:
        if k in reached[k] and not any(k in loop for loop in loops):
            loops.append([other for other in reached if other in reached[k] and k in reached[other]])
    return loops


def loops_of(blocks: list[Block], hot: list[int]) -> list[list[int]]:
    """Return the hot blocks of each outermost loop."""
    return _loops(_reached(_follows(blocks, hot)))


def _rounds(instructions: list[Instruction], values: int, value_bytes: int) -> int:
    """Return how often a loop runs: until it has loaded, or stored, as many values of one kind as a thread holds."""
    moved: Counter[str] = Counter()
    for one in instructions:
        if one.name in ("LDG", "STG"):
            moved[one.name] += max(1, one.bits // 8 // value_bytes)
        elif one.name in ("LDS", "STS"):
            moved[one.name] += max(1, one.bits // 32)  # shared memory holds float32
    return -(-values // max([1, *moved.values()]))


def hot_instructions(code: list[Instruction]) -> list[Instruction]:
    """Return all instructions of the hot blocks."""
    blocks = blocks_of(code)
    return [one for k in hot_blocks(blocks) for one in blocks[k].instructions]


def executed_per_thread(code: list[Instruction], values: int, value_bytes: int = 4) -> int:
    """Return the largest number of instructions that a thread executes, without rare code.

    Args:
        code: Instructions of the kernel.
        values: Values of x per thread.
        value_bytes: Bytes per value in global memory, to count the rounds of loops.

    Raises:
        ValueError: See hot_blocks.
    """
    blocks = blocks_of(code)
    hot = hot_blocks(blocks)
    loops = loops_of(blocks, hot)
    total = sum(blocks[k].executed for k in hot)
    for loop in loops:
        once = [one for k in loop for one in blocks[k].instructions]
        total += (_rounds(once, values, value_bytes) - 1) * sum(blocks[k].executed for k in loop)
    return total


def _longest(blocks: list[Block], start: int, among: Iterable[int], times: dict[int, int]) -> list[int]:
    """Return the longest path from `start` that does not return to it and passes each loop once."""
    follows = _follows(blocks, among, but=start)
    reached = _reached(follows)
    loop_of = {k: loop for loop in _loops(reached) for k in loop}
    entries = {start} | {to for k in follows for to in follows[k] if to not in loop_of.get(k, [])}
    # For each block: instructions from there on, the path through its loop, and the next block. Successors come first.
    found: dict[int, tuple[int, list[int], int | None]] = {}
    for k in sorted(entries, key=lambda k: len(reached[k] | {k})):
        loop = loop_of.get(k, [k])
        path = _longest(blocks, k, loop, times) if k in loop_of else [k]
        exits = {to for of in loop for to in follows[of] if to not in loop}
        following = max(exits, key=lambda to: found[to][0], default=None)
        count = sum(times[of] * blocks[of].executed for of in path)
        found[k] = (count + (0 if following is None else found[following][0]), path, following)
    whole: list[int] = []
    at: int | None = start
    while at is not None:
        _, path, at = found[at]
        whole += path
    return whole


def longest_path(blocks: list[Block], values: int, value_bytes: int = 4) -> list[tuple[int, int]]:
    """Return the blocks of the longest path without rare code, and how often each is executed.

    A path takes one side of each branch, so this is closer to what a warp executes than executed_per_thread. Called
    functions do not count.

    Args:
        blocks: Blocks of the kernel.
        values: Values of x per thread.
        value_bytes: Bytes per value in global memory, to count the rounds of loops.

    Returns:
        Indices of blocks in the order of execution, each once, with the number of rounds of its loop.

    Raises:
        ValueError: See hot_blocks.
    """
    hot = hot_blocks(blocks)
    times = dict.fromkeys(hot, 1)
    for loop in loops_of(blocks, hot):
        once = [one for k in loop for one in blocks[k].instructions]
        times.update(dict.fromkeys(loop, _rounds(once, values, value_bytes)))
    return [(k, times[k]) for k in (_longest(blocks, 0, hot, times) if hot else [])]


def instructions_per_value(kernels: Iterable[HasCode], values: int, value_bytes: int = 4) -> float:
    """Return the instructions per value of x of a call: the sum over its kernels with `values` values per thread."""
    return sum(executed_per_thread(kernel.code, values, value_bytes) for kernel in kernels) / values
