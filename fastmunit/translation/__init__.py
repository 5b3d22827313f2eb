"""Translating images and files of images: what may be given, where styles come from, what is written."""
