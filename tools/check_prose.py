"""Check that prose is plain English: docstrings start with a verb, and no phrase of the word list is used.

Usage: python tools/check_prose.py [PATH ...]; without a path, it checks every file that git tracks.
A line with `prose: allow` is exempt, for example one that quotes a third-party name, and so are the lines from
`prose: off` to `prose: on`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".h", ".cuh", ".cpp", ".cu", ".yaml", ".yml", ".toml", ".j2", ".js", ".css"}

_VERB_LIST = """
Abort Accept Accumulate Acquire Add Advance Agree Align Allocate Allow Announce Append Apply Approximate Ask Assert
Assign Average Bake Balance Begin Benchmark Bind Blend Block Broadcast Build Cache Call Cancel Capture Cast Center
Change Check Choose Clamp Classify Clean Clear Clip Close Collect Combine Compare Compile Complete Compute
Concatenate Configure Connect Construct Contain Convert Convolve Copy Count Create Crop Cut Decide Declare Decode
Decorate Defer Define Delete Deliver Derive Describe Detach Detect Differentiate Disable Discard Display Distribute
Divide Do Download Draw Drop Emit Emulate Enable Encode End Ensure Enter Enumerate Escape Estimate Evaluate Exchange
Execute Exit Expand Explain Export Express Extract Factor Fail Feed Fetch Fill Filter Find Finish Fit Fix Flatten
Flip Fold Follow Forget Form Format Freeze Fuse Gather Generate Get Give Go Group Guard Handle Hash Hide Hold Ignore
Import Increase Infer Initialize Insert Install Interpolate Invert Is Iterate Join Keep Kill Launch Lay Leave Let
Limit Link List Listen Load Lock Log Look Lower Make Map Mark Mask Match Measure Merge Minimize Mirror Mix Model
Modify Monitor Move Multiply Name Normalize Note Notify Number Offer Omit Open Order Overlap Override Overwrite Pack
Pad Parse Partition Pass Patch Pause Perform Permute Pick Place Plan Plot Point Pool Pop Prefetch Prepare Preserve
Print Process Produce Profile Project Propagate Provide Prune Publish Pull Push Put Quantize Query Raise Read Rebuild
Receive Recognize Recompute Reconstruct Record Reduce Refer Refuse Register Reject Release Reload Remember Remove Rename
Render Repeat Replace Replay Report Represent Require Reset Reshape Resize Resolve Restart Restore Resume Retry
Return Reuse Reverse Rewind Rewrite Rotate Round Route Run Sample Save Scale Scan Search Select Send Separate
Serialize Serve Set Share Shift Shorten Show Shuffle Sign Simulate Skip Slice Smooth Solve Sort Spawn Split Stack
Start State Step Stop Store Stream Strip Subtract Sum Summarize Supply Suppress Swap Switch Synchronize Take Test
Tile Time Toggle Touch Trace Track Train Transfer Transform Translate Transpose Traverse Trim Truncate Try Turn
Undo Unfreeze Unpack Unshuffle Unwrap Update Upload Upsample Use Validate Verify View Visit Wait Walk Warm Warn Weigh
Widen Wrap Write Yield Zero
"""
VERBS = frozenset(_VERB_LIST.split())
"""First words of docstrings of functions. Add a verb that is missing."""


class Phrase(NamedTuple):
    """A pattern that prose must not contain, and what to write instead."""

    pattern: str
    advice: str


# prose: off
_UNIT = r"(?:iteration|image|side|scale|pixel|second|call|step|block|map|direction|domain|value|channel|input|epoch)"
_AMOUNT = r"(?:iterations?|pixels|values?|outputs?|images|kernels|bytes|maps?|blocks|threads|ms|seconds|bits|files)"
_QUESTION = r"(?:What|Whether|Where|How|Which)"
# Stems of words with an s for American z, then other spellings.
_BRITISH = (
    r"(?i:normalis|initialis|optimis(?!t|m)|recognis|synchronis|organis(?!m)|minimis|maximis|summaris"
    r"|generalis|serialis|vectoris|parallelis|visualis|standardis|regularis"
    r"|\b(?:colour|behaviour|centre[ds]?\b|grey|neighbour|favour|catalogue|honour|labelled|modelled|travell))"
)

PHRASES = (
    Phrase(rf"\b{_AMOUNT} an? {_UNIT}\b", 'write "per": "one output per image"'),
    Phrase(r"\b(?:once|twice|times) an? (?:iteration|step|call|image|pixel|block)\b", 'write "per"'),
    Phrase(r"\b(?:least|most|fewest)_(?!common\b)\w+|\b(?:LEAST|MOST|FEWEST)_\w+", "write min_ or max_"),
    Phrase(_BRITISH, "use American spelling"),
    Phrase(r"\bof which\b", 'split the sentence, or write "whose"'),
    Phrase(r"\b(?:is|are) to be\b", 'write "must be" or "will be"'),
    Phrase(r"\bin place of\b", 'write "instead of"'),
    Phrase(r"\bas (?:it|they) (?:lies|lie|stands|stand)\b", 'write "unchanged" or "in its own layout"'),
    Phrase(r"\b(?:it|they|that|which|values?|pixels?|rows?) (?:lies|lie)\b", 'write "is" or "are"'),
    Phrase(r"\bbut for (?:a|the|one|two|rounding)", 'write "except for"'),
    Phrase(r"\bof others\b", 'write "third-party"'),
    Phrase(r"\b(?:it is|they are) of\b", "say what it belongs to"),
    Phrase(r"\b[Bb]eside\b", 'write "in addition to", "besides" or "next to"'),
    Phrase(r"\b(?:is|are) (?:not )?wanted\b", 'write "needed" or "requested"'),
    Phrase(r"\b(?:is|are) (?:not )?told\b", 'write "receives" or "knows"'),
    Phrase(rf"^\s*(?://|#) {_QUESTION}\b", "state what it is or does"),
    Phrase(r"^ {4,}\w+: (?:Of|That|Those|Such as)\b", "write a full phrase that starts with a noun"),
)
"""The word list."""
# prose: on


def main() -> int:
    """Print every fault and return 1 if there is any."""
    names = (
        sys.argv[1:]
        or subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    )
    faults = [fault for name in names for path in expand(ROOT / name) for fault in faults_of(path)]
    print(*faults, sep="\n")
    return 1 if faults else 0


def expand(path: Path) -> list[Path]:
    """Return the files to check at a path: the file itself, or the files in a folder."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [p for p in paths if p.suffix in SUFFIXES and p.is_file() and "LICENSE" not in p.name]


def faults_of(path: Path) -> Iterator[str]:
    """Yield a line per fault of a file: the place, the text and the advice."""
    text = path.read_text(encoding="utf-8")
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for number, line in _checked_lines(text):
        for phrase in PHRASES:
            for match in re.finditer(phrase.pattern, line):
                yield f"{where}:{number}: {match[0].strip()!r}: {phrase.advice}."
    if path.suffix == ".py":
        for number, fault in _docstring_faults(ast.parse(text), is_test="tests" in where.parts):
            yield f"{where}:{number}: {fault}."


def _checked_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not exempt, with their numbers."""
    is_off = False
    for number, line in enumerate(text.splitlines(), start=1):
        if marker := re.fullmatch(r"\s*(?:#|//) prose: (on|off)", line):
            is_off = marker[1] == "off"
        if not is_off and "prose: allow" not in line:
            yield number, line


def _docstring_faults(tree: ast.Module, *, is_test: bool) -> Iterator[tuple[int, str]]:
    """Yield the line and the fault of docstrings. In tests, docstrings of functions are sentences of any form."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        words = (ast.get_docstring(node) or "").split(maxsplit=1)
        first = words[0].rstrip(".,:;") if words else ""
        number, name = getattr(node, "lineno", 1), getattr(node, "name", "the module")
        needs_verb = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node) and not is_test
        if re.fullmatch(_QUESTION, first):
            yield number, f"docstring of {name} starts with {first!r}: state what it is or does"
        elif first and needs_verb and first not in VERBS:
            yield number, f"docstring of {name} starts with {first!r}: start with a verb"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = (d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "") for d in node.decorator_list)
    return any(name in ("property", "cached_property") for name in names)


if __name__ == "__main__":
    sys.exit(main())
