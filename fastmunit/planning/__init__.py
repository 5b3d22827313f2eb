"""Estimates of the memory of a training before it starts."""
