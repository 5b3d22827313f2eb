"""Opening of Zarr folders that may come from anybody: nothing outside of the folder is read, and no code is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmunit.image_files.packages import needed
from fastmunit.image_files.zarr_codecs import chunk_format

if TYPE_CHECKING:
    from fastmunit.image_files.zarr_files import CheckedStore

METADATA_NAMES = ("zarr.json", ".zgroup", ".zarray")


def opened(path: Path) -> Any:
    """Return the zarr array or group of a folder.

    Raises:
        DataError: If zarr is not installed, or the folder is no Zarr array or group.
    """
    zarr = needed("zarr", "zarr", "a Zarr image")
    from fastmunit.image_files.zarr_files import CheckedStore

    store = CheckedStore(path)
    if _is_array(store):
        return zarr.open_array(store, mode="r")
    return zarr.open_group(store, mode="r", use_consolidated=False)


def require_safe(array: Any) -> None:
    """Check the codecs of an array, and the size of its chunks, and let its chunks be read.

    Chunks that would be larger after decompression than the array declares are refused from then on.

    Raises:
        DataError: If a codec is not known to be safe, or chunks are too large.
    """
    place = array.store_path
    place.store.add(place.path, chunk_format(array.metadata.to_dict(), array.dtype.itemsize))


def _is_array(store: CheckedStore) -> bool:
    if store.read_metadata(".zarray") is not None:
        return True
    document = store.read_metadata("zarr.json")
    found = None if document is None else json.loads(document)
    return isinstance(found, dict) and found.get("node_type") == "array"
