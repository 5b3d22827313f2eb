"""Writing of Zarr arrays and OME-Zarr images like another one."""

from __future__ import annotations

import copy
import itertools
import math
import os
from typing import Any

import numpy as np

from fastmunit.image_files.folders import require_free, staged_folder
from fastmunit.image_files.packages import needed
from fastmunit.image_files.staging import Staging
from fastmunit.image_files.writer import ImageWriter
from fastmunit.image_files.zarr_reader import ZarrReader
from fastmunit.region import Region


class ZarrWriter(ImageWriter):
    """A Zarr array or OME-Zarr image with the axes, chunks, compression, attributes and number of levels of another.

    Its other arrays, such as labels, are not copied.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: ZarrReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._like = like
        self._adds_channels = channels > 1 and "C" not in like.axes
        self._axes = like.axes
        if self._adds_channels:
            self._axes = "".join(axis for axis in like.axes if axis not in "YX") + "CYX"
        super().__init__(path, like, channels, dtype, channel_names)

    def _prepare(self) -> None:
        self._zarr = needed("zarr", "zarr", "a Zarr image")
        require_free(self.path)

    def _encode(self, pixels: Staging) -> None:
        like = self._like
        version = like.array.metadata.zarr_format
        with staged_folder(self.path) as folder:
            if not like.array_path:
                store = self._zarr.storage.LocalStore(folder)
                self._fill(self._zarr.create_array(store, zarr_format=version, **self._options(pixels)), pixels)
                return
            group = self._zarr.create_group(folder, zarr_format=version, overwrite=True, attributes=self._attributes())
            paths = [dataset["path"] for dataset in like.scales["datasets"]] if like.scales else [like.array_path]
            level, owned = pixels, None
            try:
                for index, path in enumerate(paths):
                    if index:
                        following = level.halved(like.nodata)
                        if owned is not None:
                            owned.close()
                        level = owned = following
                    self._fill(group.create_array(path, **self._options(level)), level)
            finally:
                if owned is not None:
                    owned.close()

    def _sizes(self, level: Staging) -> dict[str, int]:
        planes = iter(self._like.plane_sizes)
        known = {"C": self.channels, "Y": level.shape[2], "X": level.shape[3]}
        return {axis: known[axis] if axis in known else next(planes) for axis in self._axes}

    def _options(self, level: Staging) -> dict[str, Any]:
        """Return the options of zarr for the array of a level."""
        array = self._like.array
        sizes = self._sizes(level)
        lengths = dict(zip(self._like.axes, array.chunks, strict=True)) | ({"C": 1} if self._adds_channels else {})
        chunks = tuple(min(lengths[axis], size) for axis, size in sizes.items())
        options: dict[str, Any] = {"shape": tuple(sizes.values()), "chunks": chunks, "dtype": self.dtype}
        if self.dtype == self._like.stored_dtype:
            options["compressors"] = array.compressors or None
            options["fill_value"] = array.fill_value
        if array.shards is not None:
            ratios = dict(
                zip(self._like.axes, (s // c for s, c in zip(array.shards, array.chunks, strict=True)), strict=True)
            )
            options["shards"] = tuple(
                chunk * ratios.get(axis, 1) for axis, chunk in zip(self._axes, chunks, strict=True)
            )
        if array.metadata.zarr_format == 2:
            options["chunk_key_encoding"] = {"name": "v2", "separator": array.metadata.dimension_separator}
        elif (names := array.metadata.dimension_names) is not None:
            known = dict(zip(self._like.axes, names, strict=True)) | ({"C": "c"} if self._adds_channels else {})
            options["dimension_names"] = tuple(known[axis] for axis in self._axes)
        attributes = copy.deepcopy(array.attrs.asdict())
        if self._adds_channels and "_ARRAY_DIMENSIONS" in attributes:
            attributes["_ARRAY_DIMENSIONS"] = [axis.lower() for axis in self._axes]
        return options | {"attributes": attributes}

    def _fill(self, array: Any, level: Staging) -> None:
        """Write an array chunk by chunk, so that each chunk is compressed once."""
        sizes = self._sizes(level)
        steps = dict(zip(self._axes, array.shards or array.chunks, strict=True))
        plane_axes = [axis for axis in self._axes if axis not in "CYX"]
        ranges = [range(0, size, steps[axis]) for axis, size in sizes.items()]
        for corner in itertools.product(*ranges):
            first = dict(zip(self._axes, corner, strict=True))
            count = {axis: min(steps[axis], sizes[axis] - first[axis]) for axis in self._axes}
            region = Region(first["Y"], first["X"], count["Y"], count["X"])
            channels = slice(first.get("C", 0), first.get("C", 0) + count.get("C", 1))
            indices = itertools.product(*(range(first[axis], first[axis] + count[axis]) for axis in plane_axes))
            planes = [
                int(np.ravel_multi_index(index, [sizes[axis] for axis in plane_axes])) if index else 0
                for index in indices
            ]
            blocks = np.stack([level.read(region, plane, channels) for plane in planes])
            order = [*plane_axes, "C", "Y", "X"]
            blocks = blocks.reshape([count.get(axis, 1) for axis in order])
            if "C" not in self._axes:
                blocks, order = blocks[..., 0, :, :], [*plane_axes, "Y", "X"]
            block = blocks.transpose([order.index(axis) for axis in self._axes])
            array[tuple(slice(first[axis], first[axis] + count[axis]) for axis in self._axes)] = block

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes of the group: those of the other image, with its axes, scales and channels adapted."""
        attributes = copy.deepcopy(self._like.attributes)
        if self._like.scales is None:
            return attributes
        ome = attributes["ome"] if isinstance(attributes.get("ome"), dict) else attributes
        scales = ome["multiscales"][0]
        ome["multiscales"] = [scales]
        position = self._axes.index("C") if self._adds_channels else None
        if position is not None and isinstance(scales.get("axes"), list):
            scales["axes"].insert(position, {"name": "c", "type": "channel"})
        self._set_scales(scales, position)
        omero = ome.get("omero")
        if self.channel_names or self.channels != self._like.channels:
            names = self.channel_names or tuple(f"channel {index}" for index in range(self.channels))
            kept = omero.get("channels") if isinstance(omero, dict) else None
            if not isinstance(kept, list) or len(kept) != self.channels:
                kept = [{"color": "FFFFFF", "active": True} for _ in names]
            entries = [entry | {"label": name} for entry, name in zip(kept, names, strict=True)]
            ome["omero"] = (omero if isinstance(omero, dict) else {}) | {"channels": entries}
        return attributes

    def _set_scales(self, scales: dict[str, Any], position: int | None) -> None:
        """Set the size of a pixel in each level from that in the first one, as each level has half the size."""
        first = scales["datasets"][0].get("coordinateTransformations")
        if not isinstance(first, list):
            return
        for transform in first:
            for key, neutral in (("scale", 1.0), ("translation", 0.0)):
                if position is not None and isinstance(transform.get(key), list):
                    transform[key].insert(position, neutral)
        for index, dataset in enumerate(scales["datasets"][1:], 1):
            transforms = copy.deepcopy(first)
            for transform in transforms:
                if isinstance(transform.get("scale"), list):
                    for axis, size in (("Y", self.height), ("X", self.width)):
                        transform["scale"][self._axes.index(axis)] *= size / math.ceil(size / 2**index)
            dataset["coordinateTransformations"] = transforms
