"""What a run writes for people: logs, grids, reports."""
