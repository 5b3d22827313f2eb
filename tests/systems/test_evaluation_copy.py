"""Tests that inference does not change a trainer: its weights, its modes and its random stream."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastmunit
from fastmunit.config import Config
from fastmunit.nn.layers.blocks import Conv2dBlock
from fastmunit.nn.layers.dropout import Dropout, masks_from
from fastmunit.nn.layers.init import without_values
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.runs.reports.image_grid import sample_grids
from fastmunit.systems.base import System
from fastmunit.systems.parts.evaluation_copy import evaluation_copies

_SMALL = ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=1",
          "display_size=2", "ema_decay=0.5", "crop_image_height=32", "crop_image_width=32"]  # fmt: skip
_DROPOUT = ["options.dropout=0.5", "options.dropout_at_test=true", "options.generator=resnet"]


def munit(*overrides: str) -> System:
    torch.manual_seed(0)
    return fastmunit.MUNIT(Config.load("demo", [*_SMALL, *overrides]))


def unit_with_noise() -> System:
    torch.manual_seed(0)
    options = ["options.noise_at_test=true", "options.share_latent_blocks=1"]
    return fastmunit.UNIT(Config.load("demo_unit", [*_SMALL, *options]))


def cyclegan_with_dropout() -> System:
    torch.manual_seed(0)
    return fastmunit.CycleGAN(Config.load("demo_cyclegan", [*_SMALL, *_DROPOUT, "options.noise_dim=0"]))


def bicyclegan_with_dropout() -> System:
    torch.manual_seed(0)
    return fastmunit.BicycleGAN(Config.load("demo_bicyclegan", [*_SMALL, *_DROPOUT, "options.inject=input"]))


SYSTEMS = [munit, unit_with_noise, cyclegan_with_dropout, bicyclegan_with_dropout]


def images(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    return a, b


def everything(trainer: System) -> dict[str, Any]:
    state = {name: value.detach().clone() for name, value in trainer.state_dict().items()}
    assert trainer.averages is not None
    averages = trainer.averages.state_dicts(trainer.generators())
    return state | {f"{name}.{key}": value for name, state in averages.items() for key, value in state.items()}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def trained(
    build: Callable[[], System], concurrent: Callable[[System], object] | None = None, calls: int = 0
) -> System:
    """Run a few iterations while four threads call `concurrent`, `calls` times in all."""
    trainer = build()
    torch.manual_seed(5)
    trainer.step(*images())
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(concurrent, trainer) for _ in range(calls)] if concurrent is not None else []
        steps = 0
        while steps < 6 or not all(future.done() for future in running):
            if steps < 6:
                trainer.step(*images(steps))
                steps += 1
        for future in running:
            future.result()
    return trainer


@cache
def trained_alone(build: Callable[[], System]) -> System:
    """Run the iterations without concurrent calls. Nothing may change the system that is returned."""
    return trained(build)


def munit_in_bfloat16() -> System:
    return munit("precision=bfloat16")


@pytest.mark.parametrize("build", [munit, munit_in_bfloat16])
def test_translations_in_four_threads_do_not_change_a_training(build: Callable[[], System]) -> None:
    """In bfloat16, all threads share autocast's copies of the weights."""

    def concurrent(trainer: System) -> None:
        fastmunit.translate(trainer, images()[0][0], 2, precision=trainer.config.precision)

    assert_same(everything(trained_alone(build)), everything(trained(build, concurrent, calls=60)))


@pytest.mark.parametrize("build", SYSTEMS[1:])
def test_translations_of_other_systems_do_not_change_a_training(build: Callable[[], System]) -> None:
    concurrent = trained(build, lambda trainer: fastmunit.translate(trainer, images()[0][0], 2), calls=20)
    assert_same(everything(trained_alone(build)), everything(concurrent))


@pytest.mark.parametrize("build", SYSTEMS)
def test_previews_and_loading_in_threads_do_not_change_a_training(build: Callable[[], System], tmp_path: Any) -> None:
    alone = trained_alone(build)
    alone.save(tmp_path / "checkpoints", 6)
    alone.config.save(tmp_path / "config.yaml")
    before = everything(alone)

    def concurrent(trainer: System) -> None:
        sample_grids(trainer, *images(), seed=3)
        fastmunit.load_translator(tmp_path)

    assert_same(before, everything(trained(build, concurrent, calls=6)))


@pytest.mark.parametrize("build", SYSTEMS)
@pytest.mark.parametrize("training", [True, False])
def test_inference_leaves_modes_weights_and_random_state_alone(build: Callable[[], System], training: bool) -> None:
    trainer = build().train(training)
    trainer.step(*images())
    gradients = {name: p.grad.clone() for name, p in trainer.named_parameters() if p.grad is not None}
    odd = next(module for module in trainer.modules() if isinstance(module, Conv2dBlock))
    odd.train(not training)  # only this module has another mode
    modes = [module.training for module in trainer.modules()]
    before, state = everything(trainer), torch.get_rng_state()
    first = fastmunit.translate(trainer, images()[0][0], 2)
    grids = sample_grids(trainer, *images(), seed=3)
    assert torch.equal(fastmunit.translate(trainer, images()[0][0], 2), first)
    assert all(torch.equal(grids[name], again) for name, again in sample_grids(trainer, *images(), seed=3).items())
    if not isinstance(trainer, fastmunit.CycleGAN | fastmunit.BicycleGAN):
        trainer(*images())
    assert [module.training for module in trainer.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(before, everything(trainer))
    assert_same(gradients, {name: p.grad for name, p in trainer.named_parameters() if p.grad is not None})


def test_translations_are_those_of_the_averages() -> None:
    trainer = trained(munit)
    assert trainer.averages is not None
    code = torch.randn(1, 8, 1, 1)
    outputs = fastmunit.translate(trainer, images()[0][0], code)
    for name, state in trainer.averages.state_dicts(trainer.generators()).items():
        trainer.generators()[name].load_state_dict(state)
    trainer.averages = None
    torch.testing.assert_close(outputs, fastmunit.translate(trainer, images()[0][0], code), rtol=0, atol=0)


def test_gradients_flow_through_forward_as_in_the_public_trainer() -> None:
    trainer = munit("ema_decay=0")
    x_ab, _ = trainer(*images())
    x_ab.sum().backward()
    assert trainer.get_parameter("gen_b.mlp.model.0.fc.weight").grad is not None


class _Network(nn.Module):
    """A network with spectral norm and batch norm, which write in forward, and with one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SpectralNorm(nn.Conv2d(3, 3, 1))
        self.norm = nn.BatchNorm2d(3)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.norm(self.first(x)))


def test_copies_write_to_tensors_of_their_own() -> None:
    network = _Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        copied = evaluation_copies({"a": network}, {})["a"]
        assert isinstance(copied, _Network) and copied.again is copied.first
        copied(images()[0])
        copied.train()(images()[0])
    assert_same(before, network.state_dict())
    weight = network.first.module.get_parameter("weight_bar")
    assert copied.first.module.get_parameter("weight_bar").data_ptr() == weight.data_ptr()


def test_a_copy_runs_a_forward_of_its_own() -> None:
    network = _Network()
    network.norm.forward = network.norm._check_input_dim  # type: ignore[method-assign]
    copied = evaluation_copies({"a": network}, {})["a"]
    assert copied.norm.forward.__self__ is copied.norm  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_from_a_generator_are_those_of_torch(dtype: torch.dtype) -> None:
    x = torch.rand(2, 4, 5, 6).to(dtype, memory_format=torch.channels_last)
    layer = Dropout(0.3)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = F.dropout(x, 0.3)
    state = torch.get_rng_state()
    with masks_from(torch.Generator().manual_seed(7)):
        assert torch.equal(layer(x), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("build", SYSTEMS)
def test_unequal_batches_are_named(build: Callable[[], System]) -> None:
    trainer = build()
    x_a, x_b = images()
    before, steps = everything(trainer), [s._step_count for s in trainer.schedulers().values() if s is not None]
    calls = [trainer.step, trainer.update]
    calls += [getattr(trainer, name) for name in ("dis_update", "gen_update") if hasattr(trainer, name)]
    for call in calls:
        with pytest.raises(ValueError, match="x_a has 2 images, x_b 1: give batches of equal size"):
            call(x_a, x_b[:1])
        with pytest.raises(ValueError, match="x_a has 1 image, x_b 2:"):
            call(x_a[:1], x_b)
    assert_same(before, everything(trainer))
    assert [s._step_count for s in trainer.schedulers().values() if s is not None] == steps


def test_one_code_goes_with_many_others() -> None:
    generator = munit().generators()["b"]
    contents, styles = torch.randn(3, 16, 8, 8), torch.randn(3, 8, 1, 1)
    together = generator.decode(contents, styles[:1])  # type: ignore[operator]
    apart = torch.cat([generator.decode(content[None], styles[:1]) for content in contents])  # type: ignore[operator]
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    together.sum().backward()
    assert generator.decode(contents[:1], styles).shape == together.shape  # type: ignore[operator]
    with pytest.raises(ValueError, match="got 3 content codes and 2 style codes"):
        generator.decode(contents, styles[:2])  # type: ignore[operator]
    gan = bicyclegan_with_dropout().eval()
    z = torch.randn(1, gan.config.gen.style_dim)
    with masks_from(torch.Generator().manual_seed(0)):
        first = gan.generators()["b"](images()[0], z)
    with masks_from(torch.Generator().manual_seed(0)):
        assert torch.equal(first, gan.generators()["b"](images()[0], z.expand(2, -1)))


def test_networks_without_values_draw_nothing_and_have_the_buffers_of_new_ones() -> None:
    config = Config.load("demo", _SMALL)
    state = torch.get_rng_state()
    networks = without_values(lambda: fastmunit.MUNIT.build_generators(config))
    assert torch.equal(torch.get_rng_state(), state)
    expected = fastmunit.MUNIT.build_generators(config)
    for name, network in networks.items():
        assert_same(dict(expected[name].named_buffers()), dict(network.named_buffers()))
        forms = [
            [(n, p.shape, p.dtype, p.device) for n, p in net.named_parameters()] for net in (network, expected[name])
        ]
        assert forms[0] == forms[1]
