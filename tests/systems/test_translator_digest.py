"""The digest of a translator, by which style files know their model."""

from __future__ import annotations

from pathlib import Path

import torch

import fastmunit
from fastmunit.systems.translators import Translator


def test_the_digest_depends_on_every_weight_and_on_the_direction() -> None:
    translator = fastmunit.load_translator("fruit", device="cpu")
    first = translator.digest()
    assert first == translator.digest() == fastmunit.load_translator("fruit", device="cpu").digest()
    assert first != fastmunit.load_translator("fruit", direction="b2a", device="cpu").digest()
    seen = {first}
    for network in translator.networks().values():
        for value in network.parameters():
            with torch.no_grad():
                value.view(-1)[0] += 1
            seen.add(translator.digest())
    assert len(seen) == 1 + sum(len(list(network.parameters())) for network in translator.networks().values())


def test_the_digest_is_kept_by_a_model_folder(tmp_path: Path) -> None:
    translator = fastmunit.load_translator("fruit", device="cpu")
    translator.save_pretrained(tmp_path / "folder")
    assert Translator.from_pretrained(tmp_path / "folder").digest() == translator.digest()
