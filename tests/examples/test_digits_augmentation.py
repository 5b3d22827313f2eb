"""examples/digits_augmentation.py with tiny settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from examples import digits_augmentation
from tests.examples.test_domain_adaptation import TINY, bars

IMAGES = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
INDICES = torch.arange(4)


def run(folder: Path, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(digits_augmentation.main)
    changes = [part for change in (*TINY, "gen.mlp_dim=4") for part in ("--set", change)]
    fixed = ["--iterations", "1", "--classifier-iterations", "2", "--device", "cpu", *changes]
    return CliRunner().invoke(app, ["-o", str(folder), *fixed, *arguments])


def test_it_runs_and_computes_every_result_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_augmentation, "load_optdigits", lambda: bars(40, 8, 2))
    monkeypatch.setattr(digits_augmentation, "load_mnist", lambda folder: bars(30, 20, 3))
    monkeypatch.setattr(digits_augmentation, "HELD_OUT", 16)
    outcome = run(tmp_path, "--seeds", "1")
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        f"{arm}_seed_0.json" for arm in digits_augmentation.ARMS
    }
    first = {path: path.read_text() for path in (tmp_path / "results").iterdir()}
    found = json.loads(first[tmp_path / "results/augment_seed_0.json"])["result"]
    assert set(found) == {"optdigits", "mnist"} and all(0 <= value <= 100 for value in found.values())
    assert outcome.output.count("half of the images translated") == 3  # one result, two tables
    outcome = run(tmp_path, "--seeds", "1")
    assert outcome.exit_code == 0 and "training MUNIT" not in outcome.output
    assert {path: path.read_text() for path in (tmp_path / "results").iterdir()} == first

    prepare = digits_augmentation.preparation("augment", tmp_path / "runs/seed_0", seed=0)
    torch.testing.assert_close(prepare(IMAGES, INDICES, 3), prepare(IMAGES, INDICES, 3), rtol=0, atol=0)
    changed = torch.stack(
        [(prepare(IMAGES, INDICES, epoch) - IMAGES).abs().amax(dim=(1, 2, 3)) > 1e-3 for epoch in range(8)]
    )
    assert 6 < int(changed.sum()) < 26, "half of the images are translated"


def test_the_other_arms() -> None:
    assert digits_augmentation.preparation("plain", Path(), 0)(IMAGES, INDICES, 0) is IMAGES
    moved = digits_augmentation.preparation("affine", Path(), 0)(IMAGES, INDICES, 0)
    assert moved.shape == IMAGES.shape and moved.min() >= -1 and moved.max() <= 1
    assert all(not torch.equal(a, b) for a, b in zip(moved, IMAGES, strict=True))
