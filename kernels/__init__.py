"""Triton kernels, one file per op, installed as `fastmunit.kernels`.

Only the kernel functions in `fastmunit.ops` import these modules, and only when they run, because this needs Triton.
"""
