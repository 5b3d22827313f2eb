"""Infinities and NaN in the CUDA launchers of fused_norm, on the emulator, compared with the reference."""

import pytest

from tests.cuda.fused_norm_requests import Device, backward, forward
from tests.ops.fused_norm_cases import Case, eager, run
from tests.ops.non_finite_cases import FEW_POISONS, all_cases, all_poisons, compare

# A real GPU, and ones so small that the maps need clusters or several tiles, whose sums are combined.
DEVICES = {
    "H100": Device(),
    "small clusters": Device(40, max_steps=1),
    "small tiles": Device(8, cluster=1, max_steps=1),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", all_cases(FEW_POISONS), ids=Case.id)
def test_fused_norm(case, device):
    tensors, upstream = all_poisons(case, FEW_POISONS)
    x, weight, bias, residual = tensors
    options, pad = case.options(), case.pad
    padded, mean, rstd, _ = forward(x, weight, bias, residual, options, DEVICES[device])
    interior = padded[:, :, pad:-pad, pad:-pad] if pad else padded
    results = backward(*upstream, x, mean, rstd, weight, bias, True, options, DEVICES[device])
    plain = run(eager, tensors, upstream, options)
    compare([padded, interior, *results[:4]], plain, dx_is_exact=case.statistics == "none")
