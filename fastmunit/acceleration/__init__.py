"""Fused ops in third-party networks: `fastmunit.accelerate`."""
