"""Every registered system trains, stops, resumes and translates; its kernels agree with the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastmunit import data, functional, translate
from fastmunit.config import Config
from fastmunit.runs import RunFolder, train
from fastmunit.runs.reports.evaluation_log import read_records
from fastmunit.systems import registry

SMALL = ["gen.dim=4", "gen.mlp_dim=8", "dis.dim=4", "batch_size=2", "display_size=2", "num_workers=0"]
STEPS, STOP = 10, 5


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("demo")

    def root_of(name: str) -> Path:
        root, pairs = data.unpack_demo(folder / "unpaired"), folder / "pairs"
        if not registry.system_named(name).paired:
            return root
        for part in ("train", "test"):  # held-out drawings have the names of their photos
            for domain in "AB":
                shutil.copytree(root / f"test{domain}", pairs / f"{part}{domain}", dirs_exist_ok=True)
        return pairs

    return root_of


def recipe(name: str, demo_data: Callable[[str], Path], *overrides: str) -> Config:
    system, root = registry.system_named(name), demo_data(name)
    return Config.load(system.demo_recipe, [*SMALL, f"data_root={root}", *overrides])


def weights(folder: Path, iterations: int) -> dict[str, torch.Tensor]:
    found = {}
    for kind in ("gen", "dis"):
        content = torch.load(folder / f"checkpoints/{kind}_{iterations:08d}.pt", weights_only=True)
        found.update({f"{kind}.{net}.{key}": v for net, state in content.items() for key, v in state.items()})
    return found


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", registry.names())
def test_trains_resumes_bit_for_bit_and_translates(
    name: str, demo_data: Callable[[str], Path], tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, iterations after the third one are replayed, also after a resume. Evaluations change nothing."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    straight = train(recipe(name, demo_data, f"max_iter={STEPS}"), tmp_path / "straight", device=device)
    assert all(float(loss) == float(loss) for loss in straight.trainer.losses().values())
    assert straight.trainer.replays == (device == "cuda")
    evaluations = ("eval_iter=4", "eval_metrics=edge-agreement,reconstruction", "eval_inputs=2", "eval_samples=2")
    for last in (STOP, STEPS):
        config = recipe(name, demo_data, f"max_iter={last}", *evaluations)
        train(config, tmp_path / "stopped", device=device, resume=last == STEPS)
    assert [record.iteration for record in read_records(RunFolder(tmp_path / "stopped").evaluations)] == [4, 8]
    expected = weights(tmp_path / "straight", STEPS)
    for key, value in weights(tmp_path / "stopped", STEPS).items():
        assert torch.equal(value, expected[key]), key

    image = data.read_image(data.list_images(demo_data(name) / "testA")[0], straight.trainer.config.input_dim_a)
    for direction in registry.system_named(name).directions:
        outputs = translate(tmp_path / "straight", image, 3, direction=direction)
        assert outputs.shape[1:] == (3, 64, 64)
        assert outputs.isfinite().all()
        ours = translate(straight.trainer, image, 3, direction=direction)
        torch.testing.assert_close(ours.to(outputs.device), outputs)


@pytest.mark.parametrize("name", registry.names())
def test_kernels_and_reference_agree(name: str, demo_data: Callable[[str], Path], tmp_path: Path) -> None:
    config = recipe(name, demo_data)
    batches = data.TrainingPairs(config).batches()
    pairs = [tuple(x.double() for x in next(batches)) for _ in range(2)]
    losses: list[dict[str, float]] = []
    outputs = []
    for implementation in ("reference", "auto"):
        torch.manual_seed(0)
        trainer = registry.system_of(config)(config).double()
        with functional.use_implementation(implementation):  # type: ignore[arg-type]
            torch.manual_seed(1)
            outputs.append(trainer.sample(*(x[:2] for x in pairs[1])))
            torch.manual_seed(2)
            trainer.step(*pairs[0])
            losses.append({key: float(loss) for key, loss in trainer.losses().items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", registry.names())
def test_recipes_belong_to_their_system(name: str) -> None:
    system = registry.system_named(name)
    for shipped in (system.recipe, system.demo_recipe):
        config = Config.load(shipped)
        assert config.system == name
        system.check(config)
