"""Layers and networks: they own parameters and know no losses."""
