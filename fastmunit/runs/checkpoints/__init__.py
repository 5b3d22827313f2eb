"""The run folder, its checkpoints, and the state for exact resume."""
