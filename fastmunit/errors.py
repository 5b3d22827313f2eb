"""Errors that a user can fix. Each message names what is wrong and how to fix it."""


class FastmunitError(Exception):
    """Base class of the errors that fastmunit raises. The command line prints them without a traceback."""


class ConfigError(FastmunitError, ValueError):
    """An unknown configuration key, or a value of the wrong type or out of range."""


class DataError(FastmunitError, ValueError):
    """A folder, list or image that cannot be used."""


class CheckpointError(FastmunitError, RuntimeError):
    """A checkpoint that is missing, incomplete, of another kind, or of other sizes."""


class TrainingError(FastmunitError, RuntimeError):
    """A reason why training cannot continue, such as a loss that is no longer finite."""


class RankError(TrainingError):
    """A process of distributed training that has ended, hangs, or differs from the others. The message names it."""


class ImplementationError(FastmunitError, RuntimeError):
    """An implementation that was requested by name and cannot run here. The message gives the reason."""
