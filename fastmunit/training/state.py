"""Exact-resume state: what a run needs, beside the public checkpoint files, to go on as if it had never stopped."""

from __future__ import annotations

from typing import Any

import torch

from fastmunit.errors import CheckpointError
from fastmunit.models.munit import MUNIT

_FORMAT = 1


def capture(trainer: MUNIT, iterations: int, seconds: float) -> dict[str, Any]:
    """Collect the state after `iterations` iterations.

    Returns:
        A dict of tensors and plain types, so that it loads with `weights_only=True`: RNG states, fixed display styles
        s_a and s_b (display_size, style_dim, 1, 1), scheduler states, training time in seconds. The data position
        is the iteration count itself, and the learning rates are in optimizer.pt.
    """
    return {
        "format": _FORMAT,
        "iterations": iterations,
        "seconds": seconds,
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "s_a": trainer.s_a.detach().cpu(),
        "s_b": trainer.s_b.detach().cpu(),
        "dis_scheduler": _scheduler_state(trainer.dis_scheduler),
        "gen_scheduler": _scheduler_state(trainer.gen_scheduler),
    }


def restore(trainer: MUNIT, state: dict[str, Any], iterations: int, *, schedule: bool = True) -> list[str]:
    """Put a captured state back.

    Args:
        trainer: already resumed from the public files of the same snapshot.
        state: what `capture` returned.
        iterations: the snapshot's iteration count.
        schedule: also restore the schedulers; False where the configuration changed them.

    Returns:
        Sentences about what could not be restored exactly.

    Raises:
        CheckpointError: the state is of another format or another snapshot.
    """
    if not isinstance(state, dict) or state.get("format") != _FORMAT or state.get("iterations") != iterations:
        raise CheckpointError(
            f"state_{iterations:08d}.pt does not belong to this snapshot or is of another fastmunit version: remove it "
            "to resume without it (the run then continues, but not bit for bit)."
        )
    notes = []
    for name in ("s_a", "s_b"):
        current: torch.Tensor = getattr(trainer, name)
        if current.shape == state[name].shape:
            current.copy_(state[name])
        else:
            notes.append(f"display_size changed, so the fixed display styles {name} are new.")
    if schedule:
        for prefix in ("dis", "gen"):
            scheduler = getattr(trainer, f"{prefix}_scheduler")
            if scheduler is not None and state[f"{prefix}_scheduler"] is not None:
                scheduler.load_state_dict(state[f"{prefix}_scheduler"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        else:
            notes.append("the number of GPUs changed, so the GPU random streams are new.")
    return notes


def _scheduler_state(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    plain = (int, float, bool, str, list, type(None))
    return {key: value for key, value in scheduler.state_dict().items() if isinstance(value, plain)}
