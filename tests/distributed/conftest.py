from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import run


@pytest.fixture(scope="session")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the results of two processes that have run the tasks of the fast tests."""
    folder = tmp_path_factory.mktemp("two")
    run(2, "-m", "tests.distributed.worker", "short", str(folder))
    return folder
