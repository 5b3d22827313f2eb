"""A stopped run continues as if it had never stopped."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.files import load_tensors
from fastmunit.runs import RunFolder, train
from fastmunit.runs.checkpoints.run_folder import with_absolute_paths
from fastmunit.runs.reports import image_grid
from tests.runs.tiny import Recorder, assert_same_checkpoint, make_images, newest, tiny_config


def logged_iterations(folder: Path) -> list[int]:
    with RunFolder(folder).losses.open(newline="") as file:
        return [int(row["iteration"]) for row in csv.DictReader(file)]


def logged_losses(folder: Path) -> list[dict[str, str]]:
    with RunFolder(folder).losses.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_bit_for_bit(images: Path, uninterrupted: Path, tmp_path: Path, num_workers: int) -> None:
    train(tiny_config(images, num_workers=num_workers, max_iter=3), tmp_path / "run", device="cpu")
    torch.manual_seed(999)  # whatever else the process did in between
    config = tiny_config(images, num_workers=num_workers)
    result = train(config, tmp_path / "run", resume=True, device="cpu")
    assert (result.iterations, result.ended) == (7, "finished")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_same_losses_are_logged_once_each(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=3), tmp_path / "run", device="cpu")
    RunFolder(tmp_path / "run").losses.open("a").write("4,9.9,0.1\n5,1")  # logged after the checkpoint, then killed
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert logged_iterations(tmp_path / "run") == list(range(1, 8))
    assert logged_losses(tmp_path / "run") == logged_losses(uninterrupted)


def test_tensorboard_steps_are_unique_after_resume(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    optimizer = tmp_path / "run/checkpoints/optimizer.pt"
    kept: list[bytes] = []
    recorder = Recorder({2: lambda: kept.append(optimizer.read_bytes())})
    train(tiny_config(images, max_iter=3), tmp_path / "run", device="cpu", callbacks=[recorder])
    for kind in ("gen", "dis", "state"):  # as if killed after logging iteration 3 but before saving it
        (tmp_path / "run/checkpoints" / f"{kind}_00000003.pt").unlink()
    optimizer.write_bytes(kept[0])
    train(tiny_config(images, max_iter=5), tmp_path / "run", resume=True, device="cpu")
    events = EventAccumulator(str(tmp_path / "run/logs"), purge_orphaned_data=True)
    events.Reload()
    assert "loss_gen_total" in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("loss_gen_total")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_resume_is_exact(
    images: Path, uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    recorder = Recorder({2: lambda: os.kill(os.getpid(), number)})
    result = train(tiny_config(images), tmp_path / "run", device="cpu", callbacks=[recorder])
    assert result.interrupted
    assert result.ended == number.name
    assert result.iterations == 3
    assert newest(tmp_path / "run") == 3
    assert signal.getsignal(number) is before
    assert 'class="state stopped"' in RunFolder(tmp_path / "run").report.read_text(encoding="utf-8")
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_sample_grids_do_not_disturb_training(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny_config(images, image_display_iter=1, image_save_iter=2)
    train(config, tmp_path / "run", device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)
    names = {path.name for path in (tmp_path / "run/images").iterdir()}
    for direction in ("a2b", "b2a"):
        for part in ("train", "test"):
            assert f"gen_{direction}_{part}_current.jpg" in names
            assert {f"gen_{direction}_{part}_{k:08d}.jpg" for k in (2, 4, 6)} <= names


def test_kept_grids_are_encoded_once_for_all_reports(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(tiny_config(images, max_iter=4, image_save_iter=2), tmp_path / "run", device="cpu")
    before = result.folder.report.read_text(encoding="utf-8")
    assert "a2b, iteration 2" in before and "a2b, iteration 4" in before
    monkeypatch.setattr(image_grid, "jpeg", None)
    assert result.reporter is not None
    result.reporter.ended(result)
    after = result.folder.report.read_text(encoding="utf-8")
    assert re.findall('base64,[^"]*', after) == re.findall('base64,[^"]*', before)


def test_time_limit_ends_with_a_checkpoint(images: Path, tmp_path: Path) -> None:
    result = train(tiny_config(images, max_iter=10**6), tmp_path / "run", device="cpu", time_limit=0.0)
    assert (result.ended, result.iterations) == ("time", 1)
    assert newest(tmp_path / "run") == 1


def test_keep_prunes_old_checkpoints(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images), tmp_path / "run", device="cpu", keep=2)
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    expected = [f"{kind}_{k:08d}.pt" for kind in ("dis", "gen", "state") for k in (6, 7)]
    assert names == sorted([*expected, "optimizer.pt"])
    assert newest(tmp_path / "run") == 7


def test_public_run_folder_resumes_and_says_what_is_not_exact(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=4), tmp_path / "run", device="cpu")
    checkpoints = tmp_path / "run/checkpoints"
    for path in checkpoints.glob("state_*.pt"):
        path.unlink()
    public = load_tensors(checkpoints / "optimizer.pt")
    torch.save({"gen": public["gen"], "dis": public["dis"]}, checkpoints / "optimizer.pt")
    recorder = Recorder()
    result = train(tiny_config(images), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert result.iterations == 7
    assert any("not bit for bit" in message for message in recorder.messages)


def test_resume_without_checkpoint_starts_from_the_beginning(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert any("from the beginning" in message for message in recorder.messages)
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_finished_run_resumes_to_nothing(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny_config(images, max_iter=2)
    train(config, tmp_path / "run", device="cpu")
    result = train(config, tmp_path / "run", resume=True, device="cpu")
    assert (result.iterations, result.ended) == (2, "finished")


@pytest.mark.parametrize("key", ["gen.dim", "gen.n_res", "dis.num_scales", "input_dim_a"])
def test_other_networks_are_refused(images: Path, tmp_path: Path, key: str) -> None:
    config = tiny_config(images, max_iter=2)
    train(config, tmp_path / "run", device="cpu")
    values = config.to_dict()
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = 1 if key == "input_dim_a" else 2
    with pytest.raises(CheckpointError, match=key):
        train(Config.from_dict(values), tmp_path / "run", resume=True, device="cpu")
    assert newest(tmp_path / "run") == 2
    assert Config.load(tmp_path / "run/config.yaml") == config


def test_changed_settings_are_named_and_applied(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=4, lr=1e-3), tmp_path / "run", device="cpu")
    recorder = Recorder()
    config = tiny_config(images, max_iter=5, lr=1e-4, weight_decay=0.0, display_size=3)
    result = train(config, tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    text = " ".join(recorder.messages)
    assert "lr 0.001 → 0.0001" in text
    assert "not bit for bit" in text
    assert "display styles" in text
    group = result.trainer.gen_opt.param_groups[0]
    assert group["lr"] == pytest.approx(1e-4 * 0.5)  # halved once, at iteration 3
    assert group["weight_decay"] == 0.0


def test_fixed_display_styles_belong_to_the_run(images: Path, tmp_path: Path) -> None:
    first = train(tiny_config(images, max_iter=2), tmp_path / "run", device="cpu").trainer
    config = tiny_config(images, max_iter=3, seed=77)  # another seed would draw other styles
    second = train(config, tmp_path / "run", resume=True, device="cpu").trainer
    assert torch.equal(first.s_a, second.s_a)
    assert torch.equal(first.s_b, second.s_b)


def test_longer_training_is_not_called_inexact(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=2), tmp_path / "run", device="cpu")
    recorder = Recorder()
    train(tiny_config(images, max_iter=3), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert any("max_iter 2 → 3" in message for message in recorder.messages)
    assert not any("not bit for bit" in message for message in recorder.messages)


def test_other_training_images_are_named(tmp_path: Path) -> None:
    root = make_images(tmp_path / "data")
    train(tiny_config(root, max_iter=2), tmp_path / "run", device="cpu")
    root = root.rename(tmp_path / "moved")
    recorder = Recorder()
    train(tiny_config(root, max_iter=3), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert not any("training images have changed" in message for message in recorder.messages)
    (root / "trainA/2.png").rename(root / "trainA/renamed.png")
    (root / "trainB/5.png").write_bytes((root / "trainB/4.png").read_bytes())
    train(tiny_config(root, max_iter=4), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    (note,) = (message for message in recorder.messages if "training images have changed" in message)
    assert "A (other names or another order), B (5 → 6)" in note
    assert "not bit for bit" in note


def test_resume_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    train(tiny_config(Path("data"), max_iter=1), tmp_path / "run", device="cpu")
    saved = Config.load(tmp_path / "run/config.yaml")
    assert saved.data_root == str(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved.max_iter = 2
    assert train(saved, tmp_path / "run", resume=True, device="cpu").iterations == 2


def test_all_paths_of_a_configuration_become_absolute() -> None:
    keys = [
        f"data_{kind}_{part}_{domain}" for kind in ("folder", "list") for part in ("train", "test") for domain in "ab"
    ]
    config = Config.from_dict({key: f"some/{key}" for key in [*keys, "vgg_model_path"]})
    absolute = with_absolute_paths(config)
    assert all(getattr(absolute, key) == str(Path.cwd() / "some" / key) for key in [*keys, "vgg_model_path"])
    assert absolute.data_root is None


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"dis": {"dim": 4, "n_layer": 2, "num_scales": 1, "norm": "sn"}},
        {"dis": {"dim": 4, "n_layer": 2, "num_scales": 1, "norm": "bn"}},
        {"dis_augment": ["color", "cutout"], "dis_augment_target": -0.5, "r1_w": 1, "r1_iter": 3},
    ],
    ids=["bfloat16", "sn", "bn", "small data"],
)
def test_resume_is_bit_for_bit_with(images: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    train(tiny_config(images, max_iter=4, **changes), tmp_path / "whole", device="cpu")
    train(tiny_config(images, max_iter=2, **changes), tmp_path / "run", device="cpu")
    train(tiny_config(images, max_iter=4, **changes), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "run", 4)


def test_warm_ups_resume_bit_for_bit_and_rates_are_reported(images: Path, tmp_path: Path) -> None:
    changes = {"lr_dis": 4e-4, "lr_warmup": 4, "ema_decay": 0.99, "ema_warmup": True}
    config = tiny_config(images, max_iter=5, lr_policy="linear", **changes)
    train(config, tmp_path / "whole", device="cpu")
    recorder = Recorder({2: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert train(config, tmp_path / "run", device="cpu", callbacks=[recorder]).iterations == 3
    train(config, tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "run", 5)
    assert logged_losses(tmp_path / "whole") == logged_losses(tmp_path / "run")
    rates = [1e-4 * factor for factor in (1 / 4, 2 / 4, 3 / 4, 2 / 3, 1 / 3)]  # warm-up 4, step_size 3
    assert [float(row["lr"]) for row in logged_losses(tmp_path / "run")] == pytest.approx(rates, rel=1e-5)
    report = re.sub(r"<[^>]*>|\s+", " ", RunFolder(tmp_path / "run").report.read_text(encoding="utf-8"))
    assert re.search(rf"learning rate +{rates[-1]:.3g} .*learning rate of discriminators +{4 * rates[-1]:.3g} ", report)


@pytest.mark.parametrize(
    ("before", "after", "factor", "factor_dis"),
    [
        ({"lr_warmup": 8}, {}, 1 / 2, 1 / 2),  # step_size 3, gamma 0.5
        ({"lr_warmup": 8}, {"lr_warmup": 8, "lr_dis": 3e-4}, 5 / 16, 15 / 16),
        ({"lr_dis": 2e-4}, {"lr": 2e-4, "lr_dis": 1e-4}, 1, 1 / 2),
        ({"lr_policy": "linear", "lr_warmup": 8}, {"lr_policy": "linear"}, 1 / 3, 1 / 3),
    ],
)
def test_changed_rates_take_effect(
    images: Path, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], factor: float, factor_dis: float
) -> None:
    recorder = Recorder({3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    config = tiny_config(images, max_iter=5, **before)
    assert train(config, tmp_path / "run", device="cpu", callbacks=[recorder]).iterations == 4
    trainer = train(tiny_config(images, max_iter=5, **after), tmp_path / "run", resume=True, device="cpu").trainer
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (trainer.gen_opt, trainer.dis_opt)]
    assert rates == pytest.approx([1e-4 * factor, 1e-4 * factor_dis])


def test_tensorboard_shows_the_kept_grids(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(images, max_iter=4, image_save_iter=2), tmp_path / "run", device="cpu")
    events = EventAccumulator(str(tmp_path / "run/logs"), size_guidance={"images": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["a2b_test", "a2b_train", "b2a_test", "b2a_train"]
    assert [event.step for event in events.Images("a2b_test")] == [2, 4]
    logged = Image.open(io.BytesIO(events.Images("a2b_test")[1].encoded_image_string)).convert("L")
    with Image.open(tmp_path / "run/images/gen_a2b_test_00000004.jpg") as kept:
        difference = np.abs(np.asarray(logged, dtype=int) - np.asarray(kept.convert("L"), dtype=int))
    assert difference.mean() < 4  # the file is a JPEG


def test_state_of_another_checkpoint_is_refused(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=4), tmp_path / "run", device="cpu")
    checkpoints = tmp_path / "run/checkpoints"
    (checkpoints / "state_00000004.pt").write_bytes((checkpoints / "state_00000002.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"state_00000004\.pt"):
        train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")


CYCLEGAN = {
    "system": "cyclegan",
    "gen": {"dim": 4, "n_res": 1, "n_downsample": 1},
    "dis": {"dim": 4, "n_layer": 1, "num_scales": 1},
}


def test_options_that_shape_no_network_may_change(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=1, **CYCLEGAN), tmp_path / "run", device="cpu")
    recorder = Recorder()
    config = tiny_config(images, max_iter=2, options={"identity": 0.1}, **CYCLEGAN)
    train(config, tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert any(
        "options.identity 0.5 → 0.1" in message and "not bit for bit" in message for message in recorder.messages
    )
    config = tiny_config(images, max_iter=3, options={"noise_dim": 2}, **CYCLEGAN)
    with pytest.raises(CheckpointError, match=r"options\.noise_dim 0 → 2"):
        train(config, tmp_path / "run", resume=True, device="cpu")


@pytest.mark.parametrize("option", ["cuda_graph", "parallel_streams"])
def test_what_needs_a_gpu_is_refused_before_anything_is_written(option: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{option}: true needs a CUDA GPU, not device cpu"):
        train(tiny_config(images, **{option: True}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_linear_schedule_ends_elsewhere_when_training_is_longer(images: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=2, lr_policy="linear"), tmp_path / "run", device="cpu")
    recorder = Recorder()
    config = tiny_config(images, max_iter=3, lr_policy="linear")
    train(config, tmp_path / "run", resume=True, device="cpu", callbacks=[recorder])
    assert any("not bit for bit" in message and "max_iter 2 → 3" in message for message in recorder.messages)
