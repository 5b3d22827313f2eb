"""Systems and variants whose weights must not depend on the number of processes."""

from __future__ import annotations

from typing import Any

BATCH, ITERATIONS = 8, 5

_SMALL: dict[str, Any] = {
    "batch_size": BATCH,
    "display_size": 1,
    "lr": 0.001,
    "lr_policy": "step",
    "step_size": 2,
    "crop_image_height": 32,
    "crop_image_width": 32,
    "gen": {"dim": 4, "mlp_dim": 8, "style_dim": 3, "n_res": 1},
    "dis": {"dim": 4, "n_layer": 2, "num_scales": 1},
}
_UNET = {"generator": "unet", "num_downs": 6}  # the minimum for a dropout layer; needs images of 64 pixels
_BICYCLE = {"num_downs": 5, "encoder_blocks": 3, "encoder_dim": 4}
_SMALL_DATA = {
    "dis_augment": ["color", "translation", "cutout"],
    "dis_augment_target": -0.9,
    "dis_augment_ramp": 100,
    "r1_w": 5,
    "r1_iter": 2,
}
_LARGER = {"crop_image_height": 64, "crop_image_width": 64}


def _case(system: str, *, dis: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**_SMALL, "system": system, **changes, "dis": {**_SMALL["dis"], **(dis or {})}}


CASES = {
    "munit": _case("munit", recon_x_cyc_w=1),
    "munit, averages": _case("munit", ema_decay=0.9),
    "munit, micro-batches": _case("munit", micro_batches=2),
    "munit, share_fakes": _case("munit", share_fakes=True, recompute="always"),
    "munit, checkpointing": _case("munit", checkpointing=True),
    "munit, batch norm": _case("munit", dis={"norm": "bn"}, micro_batches=2),
    "munit, spectral norm": _case("munit", dis={"norm": "sn"}),
    "munit, spectral norm as in public": _case("munit", dis={"norm": "sn"}, compat=True),
    "munit, overlap": _case("munit", overlap_communication=True, micro_batches=2),
    "unit": _case("unit", recon_x_cyc_w=1),
    "unit, share_fakes": _case("unit", share_fakes=True, ema_decay=0.9),
    "unit, micro-batches": _case("unit", micro_batches=2, recon_x_cyc_w=1),
    "munit, small data": _case("munit", **_SMALL_DATA, dis={"norm": "ln"}, micro_batches=2, overlap_communication=True),
    "cyclegan": _case("cyclegan", options={"pool_size": 6}),
    "cyclegan, micro-batches": _case("cyclegan", options={"pool_size": 6, "identity": 0}, micro_batches=2),
    "cyclegan, noise and dropout": _case(
        "cyclegan", options={**_UNET, "noise_dim": 3, "dropout": 0.5, "pool_size": 0}, **_LARGER
    ),
    "bicyclegan": _case("bicyclegan", pairs="folders", options=_BICYCLE),
    "bicyclegan, small data": _case("bicyclegan", pairs="folders", options=_BICYCLE, **_SMALL_DATA),
    "bicyclegan, cvae": _case("bicyclegan", pairs="folders", options={**_BICYCLE, "variant": "cvae"}, micro_batches=2),
    "bicyclegan, clr": _case("bicyclegan", pairs="folders", options={**_BICYCLE, "variant": "clr"}),
    "pix2pix_noise": _case(
        "bicyclegan",
        pairs="folders",
        options={**_UNET, "variant": "pix2pix_noise", "dropout": 0.5},
        micro_batches=2,
        **_LARGER,
    ),
}

SHORT = ("munit, overlap", "unit", "cyclegan, micro-batches", "bicyclegan")
"""Cases of the fast tests; the others take longer."""
