"""bench.dispatch: what it records agrees with real iterations, and with the forward of fake CUDA tensors."""

from collections import Counter
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from bench.dispatch import Recorder, recorded
from fastmunit import functional
from fastmunit.config import Config
from fastmunit.nn.fused import few_channel_conv
from fastmunit.ops import availability, phase_taps
from fastmunit.systems import registry
from fastmunit.systems.parts.hyperparameters import read_weights

SIZE = 32
TINY = {
    "munit": ["gen.dim=8", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=8", "dis.n_layer=2", "dis.num_scales=2"],
    "unit": ["gen.dim=8", "gen.n_res=1", "dis.dim=8", "dis.n_layer=2", "dis.num_scales=2"],
    "cyclegan": ["gen.dim=8", "dis.dim=8"],
    "bicyclegan": [],
}


def tiny(name, precision, *overrides):
    """Return a small system and its batch."""
    system = registry.system_named(name)
    size = 256 if name == "bicyclegan" else SIZE
    sizes = [f"{key}={size}" for key in ("new_size", "crop_image_height", "crop_image_width")]
    config = Config.load(system.recipe, ["vgg_w=0", f"precision={precision}", *sizes, *TINY[name], *overrides])
    torch.manual_seed(0)
    return system(config), [torch.zeros(config.batch_size, c, size, size) for c in config.channels("a2b")]


class Names(TorchDispatchMode):
    """Counts ops by name, without those that the recorder leaves out."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        views = [each.alias_info for each in function._schema.returns]
        if not any(view is not None and not view.is_write for view in views) and not name.startswith("aten.detach"):
            self.counts[name] += "empty" not in name
        return function(*args, **(kwargs or {}))


def outer(calls):
    return Counter(call.name for call in calls if call.inside is None)


FAST = pytest.param("munit", "bfloat16")
SLOW = [
    pytest.param(name, precision, marks=pytest.mark.slow)
    for name in registry.names()
    for precision in ("float32", "bfloat16")
    if (name, precision) != FAST.values
]
"""The other systems, which take seconds each."""


@pytest.mark.parametrize(("name", "precision"), [FAST, *SLOW])
def test_a_recorded_step_dispatches_the_ops_of_a_real_one(name, precision):
    trainer, batch = tiny(name, precision)
    weights = [p.detach().clone() for p in trainer.parameters()]
    calls = outer(recorded(lambda: trainer.step(*batch), "cpu"))
    matrix, *_ = phase_taps.tap_sums(5, torch.float32, torch.device("cpu"), True)
    assert type(matrix) is torch.Tensor, "a fake tensor is in a cache"
    assert all(torch.equal(p, weight) for p, weight in zip(trainer.parameters(), weights, strict=True))
    trainer, batch = tiny(name, precision)
    trainer.step(*batch)
    with Names() as names:
        trainer.step(*batch)
    assert calls == +names.counts


def to_cuda(tree):
    """Return a tree with fake CUDA tensors of the same shapes instead of its tensors, one for each."""
    fakes = {}

    def moved(tensor):
        if id(tensor) not in fakes:
            fakes[id(tensor)] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
        return fakes[id(tensor)]

    return tree_map_only(torch.Tensor, moved, tree)


def losses_calls(trainer, batch, device_type):
    """Return the ops of both losses of a system, without backward, on fake tensors of a device."""
    weights = read_weights(trainer.weight_keys, None, trainer.config)
    with FakeTensorMode(allow_non_fake_inputs=True), functional.use_implementation("native"):
        if device_type == "cuda":
            for module in trainer.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[name] = nn.Parameter(to_cuda(parameter.detach()))
                module._buffers.update(to_cuda(module._buffers))
        inputs = trainer.draws(*batch, weights)
        if device_type == "cuda":
            inputs = to_cuda(inputs)
        with Recorder() as recorder:
            for half, terms in (("dis", trainer.discriminator_terms), ("gen", trainer.generator_terms)):
                if half in inputs:
                    terms(inputs[half], weights)
    return recorder.calls


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("name", "precision"), [FAST, *SLOW])
def test_losses_on_fake_cuda_tensors_dispatch_the_same_ops(name, precision):
    """Autograd's engine needs a real device, so this compares forward only, under CUDA's own autocast.

    Without cuDNN, fake CUDA convolutions have NCHW results, so all networks are NCHW here.
    """
    trainer, batch = tiny(name, precision, "memory_format=contiguous")
    with mock.patch.object(few_channel_conv, "_device_type", return_value="cuda"):
        expected = outer(losses_calls(trainer, batch, "cpu"))
    trainer, batch = tiny(name, precision, "memory_format=contiguous")
    with (
        mock.patch.dict(availability._REASONS, {("native", "cuda"): None}),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
    ):
        calls = losses_calls(trainer, batch, "cuda")
    # CUDA's autocast lets cat mix dtypes; that of the CPU casts its inputs first.
    mixed = [call for call in calls if call.name == "aten.cat.default" and len({f.dtype for f in call.inputs}) > 1]
    assert outer(calls) + Counter({"aten._to_copy.default": len(mixed)}) == expected
