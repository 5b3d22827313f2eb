"""Measures of translations: diversity, distances to real images, IS and CIS, content, reconstruction."""
