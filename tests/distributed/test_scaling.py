"""The tables of docs/how_to/several_gpus.md are those of bench.scaling, whose model is that of a ring all-reduce."""

from pathlib import Path

import pytest

from bench import scaling
from fastmunit import MUNIT, Config


def test_documented_tables_are_current() -> None:
    page = (Path(__file__).parents[2] / "docs/how_to/several_gpus.md").read_text()
    assert scaling.bytes_table() in page
    assert scaling.scaling_table() in page


def test_bytes_are_four_per_parameter() -> None:
    config = Config.load("demo")
    trainer = MUNIT(config)
    sizes = {"gen": trainer.generators(), "dis": trainer.discriminators()}
    for name, networks in sizes.items():
        count = sum(p.numel() for network in networks.values() for p in network.parameters())
        assert scaling.gradient_bytes("demo")[name] == 4 * count


def test_ring() -> None:
    link = scaling.Link("", bandwidth=100.0, latency=0.5)
    assert scaling.iteration_seconds(1.0, 200.0, 1, link) == 1.0
    assert scaling.iteration_seconds(1.0, 200.0, 4, link) == pytest.approx(1 + 3.0 + 2 * 3 * 0.5 * 2)
