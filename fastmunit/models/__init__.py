"""The systems: one file each with its networks put together, its losses, its update steps and its optimizers."""
