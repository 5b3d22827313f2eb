import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data import TrainingPairs, sampling, slides, workers
from fastmunit.errors import DataError

ROOT = Path(__file__).parents[2]
Batch = tuple[Tensor, Tensor]


def take(pairs: TrainingPairs, count: int, start: int = 0) -> list[Batch]:
    stream = pairs.batches(start)
    taken = list(islice(stream, count))
    stream.close()
    return taken


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y) for pair, again in zip(one, other, strict=True) for x, y in zip(pair, again, strict=True)
    )


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_processors", lambda: 2)


def test_shapes_and_epoch_length(make_config: Callable[..., Config]) -> None:
    pairs = TrainingPairs(make_config())
    assert pairs.batches_per_epoch == 3  # 7 and 10 images in batches of 2, without the rest
    (a, b), *_ = take(pairs, 1)
    assert a.shape == b.shape == (2, 3, 64, 64)
    assert a.dtype == torch.float32


def test_batches_do_not_depend_on_workers_or_start(make_config: Callable[..., Config], two_processors: None) -> None:
    whole = take(TrainingPairs(make_config(num_workers=0)), 8)
    workers = TrainingPairs(make_config(num_workers=2))
    assert workers.num_workers == 2
    assert equal(take(workers, 8), whole)
    assert equal(take(workers, 4, start=4), whole[4:])
    for start in (1, 3, 7):
        assert equal(take(TrainingPairs(make_config()), 8 - start, start), whole[start:])
    assert not equal(take(TrainingPairs(make_config(seed=1)), 8), whole)


def test_epochs_use_every_image_at_most_once_in_new_orders(make_config: Callable[..., Config]) -> None:
    # Without resize and crop, only flips vary, so a sum identifies each image.
    pairs = TrainingPairs(make_config(new_size=None, crop_image_height=80, crop_image_width=80))
    epochs = []
    for epoch in range(3):
        batches = take(pairs, pairs.batches_per_epoch, start=epoch * pairs.batches_per_epoch)
        orders = []
        for domain in (0, 1):
            images = torch.cat([batch[domain] for batch in batches]).double().sum(dim=(1, 2, 3))
            order = [round(value, 3) for value in images.tolist()]
            assert len(set(order)) == 6
            orders.append(tuple(order))
        epochs.append(tuple(orders))
    assert len({orders[0] for orders in epochs}) == 3
    assert len({orders[1] for orders in epochs}) == 3


def test_skipped_batches_are_not_loaded(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    decode = slides.read_planes
    monkeypatch.setattr(slides, "read_planes", lambda path, *rest: loaded.append(path) or decode(path, *rest))
    take(TrainingPairs(make_config()), 1, start=1000)
    assert len(loaded) == 4


def test_too_few_images_for_a_batch(make_config: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match="batch_size is 8 but the domains have 7 and 10"):
        TrainingPairs(make_config(batch_size=8))
    with pytest.raises(ValueError, match="expected start >= 0, got -1"):
        take(TrainingPairs(make_config()), 1, start=-1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_corrupt_file_is_named_without_a_worker_traceback(
    make_config: Callable[..., Config], data_root: Path, num_workers: int, two_processors: None
) -> None:
    bad = data_root / "trainB" / "4.png"
    bad.write_bytes(bad.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"trainB.4\.png is damaged .*: replace or remove it\.") as caught:
        take(TrainingPairs(make_config(num_workers=num_workers)), 40)
    assert "Traceback" not in str(caught.value)


def test_killed_worker_is_explained(make_config: Callable[..., Config], two_processors: None) -> None:
    stream = TrainingPairs(make_config(num_workers=1)).batches()
    next(stream)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(DataError, match=r"loading images in worker processes failed .*SIGKILL.* lower num_workers"):
        list(islice(stream, 100))


def test_death_of_a_worker_raises_nothing_elsewhere(make_config: Callable[..., Config]) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    stream = TrainingPairs(make_config(num_workers=1)).batches()
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) is before  # torch's handler raises in the middle of any code
    stream.close()
    assert not multiprocessing.active_children()


def refused(_images: object) -> Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_batches_without_space_in_shared_memory(make_config: Callable[..., Config], two_processors: None) -> None:
    whole = take(TrainingPairs(make_config()), 5)
    messages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "default_collate", refused)
        stream = TrainingPairs(make_config(num_workers=2)).batches(notify=messages.append)
        assert equal(list(islice(stream, 5)), whole)
        stream.close()
    (message,) = messages
    assert "batch of 0.197 MB (unable to allocate shared memory" in message
    assert "--shm-size" in message


IN_SMALL_SHARED_MEMORY = """
import sys
from itertools import islice
from fastmunit.config import Config
from fastmunit.data import TrainingPairs
pairs = TrainingPairs(Config.load(sys.argv[1]))
assert pairs.num_workers > 0
stream = pairs.batches(notify=print)
print(len(list(islice(stream, 20))))
stream.close()
"""


def test_small_shared_memory_of_a_container(make_config: Callable[..., Config], tmp_path: Path) -> None:
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=500k tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let a test have a /dev/shm of its own")
    make_config(num_workers=2).save(tmp_path / "config.yaml")
    script = shlex.join([sys.executable, "-c", IN_SMALL_SHARED_MEMORY, str(tmp_path / "config.yaml")])
    child = subprocess.run(
        [*inside, f"{mount} && exec {script}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    note, count = child.stdout.splitlines()
    assert "unable to allocate shared memory" in note  # torch 2.10 gives another reason: Success (0)
    assert count == "20"


def test_batch_that_cannot_be_sent_is_an_error(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_stack", lambda items: lambda: items)  # a lambda cannot be pickled
    stream = TrainingPairs(make_config(num_workers=1)).batches()
    with pytest.raises(DataError, match="loading images in worker processes failed"):
        next(stream)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_that_does_not_fit_in_memory(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(slides, "read_planes", lambda path, channels, *_: torch.empty(channels, 2**25, 2**25))
    with pytest.raises(
        DataError, match=r"not enough memory to load .*trainA.*\(.*allocate \d+ bytes.*lower new_size"
    ) as caught:
        take(TrainingPairs(make_config(num_workers=num_workers)), 1)
    assert "Traceback" not in str(caught.value)


def test_other_errors_in_workers_keep_their_traceback(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(path: Path, channels: int, *_: object) -> Tensor:
        raise RuntimeError("a defect")

    monkeypatch.setattr(slides, "read_planes", defect)
    with pytest.raises(RuntimeError, match=r"(?s)in DataLoader worker process 0.*Traceback.*a defect"):
        take(TrainingPairs(make_config(num_workers=1)), 1)
