"""Mechanisms that systems share: losses, optimizers, caches, averages, checkpoint files."""
