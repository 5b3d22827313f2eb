"""Fused chains of layers: norm, activation, residual and padding in one op."""
