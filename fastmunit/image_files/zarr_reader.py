"""Reading of Zarr arrays and OME-Zarr images by region."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.image_files.axes import guessed_axes
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.zarr_store import opened, require_safe
from fastmunit.region import Region


class ZarrReader(ImageReader):
    """A folder with a Zarr array, or an OME-Zarr image with its levels. Levels with fewer planes are left out.

    Axes are those of OME's metadata or the dimension names of the array, otherwise those of `axes.guessed_axes`. "c"
    is channels; other axes besides "y" and "x" are planes. Chunks that are missing have the fill value, as Zarr
    defines.
    """

    format = "Zarr"

    def _open(self) -> None:
        if not self.path.is_dir():
            raise DataError("expected a folder with a Zarr array or group.")
        node = opened(self.path)
        self.attributes: dict[str, Any] = node.attrs.asdict()
        self.scales: dict[str, Any] | None = None
        if hasattr(node, "shape"):
            self.array_path, self.array = "", node
        else:
            self.array_path, self.array = self._first_array(node)
        array = self.array
        require_safe(array)
        self.stored_dtype = self.dtype = np.dtype(array.dtype)
        self.axes = self._found_axes()
        sizes = dict(zip(self.axes, array.shape, strict=True))
        self.height, self.width, self.channels = sizes["Y"], sizes["X"], sizes.get("C", 1)
        self.plane_sizes = tuple(size for axis, size in sizes.items() if axis not in "CYX")
        self.planes = math.prod(self.plane_sizes)
        self._describe()
        if self.scales is not None:
            self._arrays: list[Any] = self._level_arrays(node)
            sizes_yx = [self.axes.index(axis) for axis in "YX"]
            self.levels = tuple((level.shape[sizes_yx[0]], level.shape[sizes_yx[1]]) for level in self._arrays)

    def _first_array(self, group: Any) -> tuple[str, Any]:
        """Return the path and the array of the image in a group."""
        ome = self.ome_metadata()
        scales = ome.get("multiscales")
        if isinstance(scales, list) and scales and isinstance(scales[0], dict):
            self.scales = scales[0]
            path = self._dataset_paths()[0]
        else:
            names = sorted(name for name, _ in group.arrays())
            if len(names) != 1:
                raise DataError(
                    f"expected an OME-Zarr image or a group with one array, got {len(names)} arrays "
                    f"({', '.join(names[:5])}): give the path of one of them."
                )
            path = names[0]
        array = group[path]
        if not hasattr(array, "shape"):
            raise DataError(f"its dataset {path!r} is a group, not an array: the metadata are damaged.")
        return path, array

    def ome_metadata(self) -> dict[str, Any]:
        """Return the part of the attributes that OME-Zarr defines: all of them before version 0.5."""
        ome = self.attributes.get("ome", self.attributes)
        return ome if isinstance(ome, dict) else {}

    def _dataset_paths(self) -> list[str]:
        datasets = (self.scales or {}).get("datasets")
        paths = [entry.get("path") for entry in datasets] if isinstance(datasets, list) else []
        for path in paths:
            if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
                raise DataError(f"expected the path of a dataset inside of the image, got {path!r}.")
        if not paths:
            raise DataError("its OME metadata list no datasets: they are damaged.")
        return paths

    def _found_axes(self) -> str:
        names = None
        if self.scales is not None:
            axes = self.scales.get("axes")
            if isinstance(axes, list):
                names = [axis.get("name") if isinstance(axis, dict) else axis for axis in axes]
            elif len(self.array.shape) == 5:
                names = list("tczyx")  # versions of OME-Zarr without axes
        else:
            names = getattr(self.array.metadata, "dimension_names", None)
            names = names or self.array.attrs.asdict().get("_ARRAY_DIMENSIONS")
        if not names or all(name is None for name in names):
            return guessed_axes(self.array.shape)
        aliases = {"CHANNEL": "C", "BAND": "C", "TIME": "T", "LAT": "Y", "LON": "X"}
        upper = [str(name).upper() for name in names]
        letters = "".join(aliases.get(name, name[:1]) for name in upper)
        if len(letters) != len(self.array.shape) or len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters):
            raise DataError(
                f"expected names of axes with y and x for an array of shape {self.array.shape}, got {list(names)}."
            )
        return letters

    def _describe(self) -> None:
        omero = self.ome_metadata().get("omero")
        entries = omero.get("channels") if isinstance(omero, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return
        labels = [entry.get("label") for entry in entries]
        if all(isinstance(label, str) for label in labels):
            self.channel_names = tuple(labels)
        windows = {
            (float(window["start"]), float(window["end"]))
            for entry in entries
            if isinstance(window := entry.get("window"), dict) and {"start", "end"} <= set(window)
        }
        if len(windows) == 1:
            self.window = windows.pop()

    def _level_arrays(self, group: Any) -> list[Any]:
        """Return the arrays of the levels: those with the type, channels and planes of the first one."""
        arrays = [self.array]
        for path in self._dataset_paths()[1:]:
            level = group[path]
            sizes = zip(self.axes, level.shape, arrays[-1].shape, strict=True)
            fits = all(0 < own <= other if axis in "YX" else own == other for axis, own, other in sizes)
            if fits and level.dtype == self.array.dtype:
                require_safe(level)
                arrays.append(level)
        return arrays

    def _read(self, region: Region, plane: int) -> np.ndarray:
        return self._read_array(self.array, region, plane)

    def _read_level(self, region: Region, plane: int, level: int) -> np.ndarray:
        return self._read_array(self._arrays[level], region, plane)

    def _read_array(self, array: Any, region: Region, plane: int) -> np.ndarray:
        rows, columns = region.slices
        indices = iter(np.unravel_index(plane, self.plane_sizes) if self.plane_sizes else ())
        index = {"Y": rows, "X": columns, "C": slice(None)}
        block = np.asarray(array[tuple(index[axis] if axis in index else int(next(indices)) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in index]
        block = block.transpose([kept.index(axis) for axis in "CYX" if axis in kept])
        return block.reshape(self.channels, region.height, region.width)
