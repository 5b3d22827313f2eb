"""The pages on concepts name code, keys and losses that exist, and their figures of losses are right."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from fastmunit.config import Config
from fastmunit.systems import registry
from tools import draw_diagrams

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/concepts"
SYSTEMS = {page.stem: page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md") if page.stem in registry.names()}
NAMES = {f"loss_{term}" for name in SYSTEMS for term in registry.system_named(name).term_names}
every_system = pytest.mark.parametrize("system", sorted(SYSTEMS))


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return the tables of a page: the cells of the head, and those of each row."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines())
        found.append((head, rows))
    return found


def column(text: str, *names: str) -> list[str]:
    """Return the cells of the columns with these names, from all tables of a page."""
    cells = []
    for head, rows in tables(text):
        cells += [row[head.index(name)] for name in names if name in head for row in rows if len(row) == len(head)]
    return cells


def keys(cells: list[str]) -> list[str]:
    return [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]


def field_of(model: type[BaseModel], options: type[BaseModel], key: str) -> Any:
    """Return the field of a key such as gan_w, gen.dim or options.identity."""
    section, _, name = key.rpartition(".")
    if section:
        model = options if section == "options" else model.model_fields[section].annotation
    return model.model_fields[name]


@every_system
def test_code_exists_where_links_lead(system):
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./\.\./(fastmunit/[\w/]+)\.py\)", SYSTEMS[system])
    assert len(links) >= 3
    for name, path in links:
        found: Any = import_module(path.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert inspect.getsourcefile(found) == str(ROOT / f"{path}.py"), f"{name} is not in {path}.py"


@every_system
def test_every_row_of_a_table_of_code_links_to_code(system):
    cells = column(SYSTEMS[system], "code")
    assert len(cells) >= 8
    assert all(cell.startswith("[`") for cell in cells)


@every_system
def test_every_equation_links_to_its_line(system):
    tables_of_losses = [(head, rows) for head, rows in tables(SYSTEMS[system]) if "logged as" in head]
    assert len(tables_of_losses) == 1
    head, rows = tables_of_losses[0]
    links = [row[head.index("code")] for row in rows]
    assert len(set(links)) == len(links) >= 8, "two equations have the same line"
    assert all(re.search(r"\.py#L\d+(-L\d+)?\)$", link) for link in links)


@every_system
def test_keys_exist(system):
    named = keys(column(SYSTEMS[system], "key", "keys"))
    assert len(named) >= 10
    named += [key for key in keys(column(SYSTEMS[system], "what may help")) if not key.startswith("--")]
    named += re.findall(r"`((?:options|gen|dis)\.\w+)", SYSTEMS[system])
    options = registry.system_named(system).Options
    for key in named:
        assert field_of(Config, options, key.partition(":")[0]) is not None, key


@every_system
def test_losses_are_logged_under_these_names_and_none_is_left_out(system):
    logged = set(keys(column(SYSTEMS[system], "logged as")))
    assert logged == {f"loss_{term}" for term in registry.system_named(system).term_names}
    assert set(re.findall(r"\bloss_(?:gen|dis)_\w+", SYSTEMS[system])) <= NAMES


@pytest.mark.parametrize("name", draw_diagrams.DIAGRAMS)
def test_diagrams_are_up_to_date_and_name_losses(name):
    diagram = draw_diagrams.DIAGRAMS[name]
    drawn = (draw_diagrams.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == draw_diagrams.svg(diagram), "run python -m tools.draw_diagrams"
    terms = registry.system_named(name).term_names
    for box in diagram.boxes.values():
        if box.kind == "loss":
            assert {f"gen_{box.text.splitlines()[1]}", box.text.splitlines()[1]} & set(terms), box.text


def test_arrows_of_diagrams_lead_to_the_right_or_up():
    for diagram in draw_diagrams.DIAGRAMS.values():
        connected = {name for arrow in diagram.arrows for name in arrow.split()}
        assert connected == set(diagram.boxes)
        for arrow in diagram.arrows:
            start, end = (diagram.boxes[name] for name in arrow.split())
            assert start.column < end.column or (start.column == end.column and start.row > end.row), arrow


CHANCE = [
    pytest.param(*(cell.strip("`") for cell in row), id=row[0])
    for head, rows in tables((FOLDER / "systems.md").read_text(encoding="utf-8"))
    if "`loss_dis_total`" in head
    for row in rows
]


@pytest.mark.parametrize(("recipe", "one", "total", "adversarial"), CHANCE)
def test_losses_of_undecided_discriminators(recipe, one, total, adversarial):
    config = Config.load(recipe, ["gen.dim=4", "gen.n_res=1", "dis.dim=4", "gen.mlp_dim=4", "lr=1e-9"])
    config.crop_image_height = config.crop_image_width = 64
    if "num_downs" in config.options:
        config.options["num_downs"] = 6
    system = registry.system_named(config.system)
    trainer = system(config)
    for discriminator in trainer.discriminators().values():
        for network in discriminator.cnns:
            last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 0.5)
    trainer.step(*(torch.rand(config.batch_size, 3, 64, 64) * 2 - 1 for _ in range(2)))
    losses = {name: float(loss) for name, loss in trainer.losses().items()}
    assert losses["loss_dis_total"] == pytest.approx(float(total), rel=1e-3)
    for name in trainer.discriminators():
        assert losses[f"loss_dis_{name}"] == pytest.approx(float(one), rel=1e-3)
        assert losses[f"loss_gen_adv_{name}"] == pytest.approx(float(adversarial), rel=1e-3)


def test_the_error_of_guessing_a_style():
    guessed = torch.randn(10**6, generator=torch.Generator().manual_seed(0)).abs().mean()
    assert float(guessed) == pytest.approx(0.80, abs=0.005)
