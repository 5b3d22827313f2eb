"""Tests of hyperparameters as scripts for the public trainer pass them."""

from __future__ import annotations

import pytest

from fastmunit.config import Config
from fastmunit.systems import registry
from fastmunit.systems.parts.hyperparameters import read_weights

SMALL = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "display_size=2"]


@pytest.mark.parametrize("name", registry.names())
def test_an_unknown_key_is_reported_where_the_system_is_created(name: str) -> None:
    system = registry.system_named(name)
    values = Config.load(system.demo_recipe, SMALL).to_dict()
    with pytest.warns(UserWarning, match=r"are ignored: 'gan_ww' \(did you mean 'gan_w'\?\)") as found:
        system({**values, "gan_ww": 1})
    assert [warning.filename for warning in found] == [__file__]


def test_weights_come_from_the_hyperparameters_that_have_them() -> None:
    config = Config.load("demo", ["gan_w=2", "vgg_w=0"])
    assert read_weights(["gan_w", "vgg_w"], None, config) == {"gan_w": 2.0, "vgg_w": 0.0}
    assert read_weights(["gan_w", "vgg_w"], {"vgg_w": 3, "other": 1}, config) == {"gan_w": 2.0, "vgg_w": 3.0}
    assert read_weights(["gan_w"], Config.load("demo", ["gan_w=5"]), config) == {"gan_w": 5.0}
