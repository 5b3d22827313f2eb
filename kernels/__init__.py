"""Triton kernels, one file per op, installed as `fastmunit.kernels`.

Only the device functions of `fastmunit.ops` import these modules, and only when they run: importing one needs Triton.
"""
