"""Image files of microscopes, scanners and satellites, read by region and written in the format that they came in.

Arrays are numpy arrays with the values of the file. Each format needs an optional package, except for `.npy`.
"""
