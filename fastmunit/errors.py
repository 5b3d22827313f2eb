"""Errors that a user can mend: each message names the thing at fault and the fix."""


class FastmunitError(Exception):
    """Base of every error that fastmunit raises on purpose; the command line prints it without a traceback."""


class ConfigError(FastmunitError, ValueError):
    """A configuration key or value is unknown, mistyped or out of range."""


class DataError(FastmunitError, ValueError):
    """A folder, list or image cannot be used."""


class CheckpointError(FastmunitError, RuntimeError):
    """A checkpoint is missing, incomplete, of another kind or of other sizes."""


class TrainingError(FastmunitError, RuntimeError):
    """Training cannot go on (for example a loss is no longer finite)."""


class RankError(TrainingError):
    """A process of a distributed training has ended, hangs, or differs from the others; the message names it."""


class ImplementationError(FastmunitError, RuntimeError):
    """An implementation that was asked for by name cannot run here; the message says why."""
