"""Fused ops in networks that someone else wrote: `fastmunit.accelerate`."""
