"""Differences between the configurations of two runs, and which of them a checkpoint allows."""

from __future__ import annotations

from dataclasses import dataclass

from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.systems import registry

# Keys of gen and dis that decide neither which weights there are nor what they mean.
_FREE_NETWORK_KEYS = frozenset({"dis.gan_type"})
_NEUTRAL_KEYS = frozenset(
    {
        "num_workers",
        "max_iter",
        "log_iter",
        "image_save_iter",
        "image_display_iter",
        "snapshot_save_iter",
        "max_pixels",
        "eval_iter",
        "eval_metrics",
        "eval_direction",
        "eval_inputs",
        "eval_samples",
        "eval_patience",
    }
)


@dataclass(frozen=True)
class Change:
    """A configuration key whose value differs between two runs.

    Attributes:
        key: Name of the key, such as "gen.dim" for a nested one.
        before: Value of the earlier run.
        after: Value of the later run.
        alters_training: True if the change alters the computed weights.
    """

    key: str
    before: object
    after: object
    alters_training: bool

    def __str__(self) -> str:
        return f"{self.key} {self.before} → {self.after}"


def differences(config: Config, previous: Config) -> list[Change]:
    """List the keys whose values differ. Options that are not set have their default values."""
    before, after = _flat(previous), _flat(config)
    keys = [*after, *(key for key in before if key not in after)]
    neutral = _NEUTRAL_KEYS - {"max_iter"} if config.lr_policy == "linear" else _NEUTRAL_KEYS  # it ends at max_iter
    changed = [key for key in keys if before.get(key) != after.get(key)]
    return [Change(key, before.get(key), after.get(key), key not in neutral) for key in changed]


def require_same_networks(config: Config, previous: Config) -> None:
    """Check that weights trained with `previous` fit `config`.

    Raises:
        CheckpointError: If a key that shapes the networks differs.
    """
    free = _FREE_NETWORK_KEYS | {f"options.{name}" for name in registry.system_of(config).free_options}
    fatal = [
        str(change)
        for change in differences(config, previous)
        if change.key.startswith(("system", "options", "gen.", "dis.", "input_dim_")) and change.key not in free
    ]
    if fatal:
        raise CheckpointError(
            f"the run cannot continue with other networks ({'; '.join(fatal)}): undo that change, or start a new run "
            "in another --output folder."
        )


def _flat(config: Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    options = registry.system_of(config).check(config).model_dump()
    for key, value in {**config.to_dict(), "options": options}.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat
