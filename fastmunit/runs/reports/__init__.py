"""Logs, sample grids and HTML reports."""
