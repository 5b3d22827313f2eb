"""Draw the diagrams of docs/concepts: `python -m tools.draw_diagrams`.

A diagram is a table of boxes on a grid and a list of arrows between them. Blue belongs to domain A, orange to domain B.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "docs/concepts/diagrams"

_COLUMN, _ROW, _WIDTH, _HEIGHT, _MARGIN, _LINE = 116, 66, 94, 44, 14, 15
_INK, _GRAY, _RED = "#1f2328", "#59636e", "#b02a1c"
_DOMAINS = {"a": ("#0b5cad", "#e3effb"), "b": ("#b35900", "#fdf0e1"), "": (_GRAY, "#ffffff")}


class Box(NamedTuple):
    """A box of a diagram.

    Attributes:
        text: Lines of text.
        kind: "image", "network", "code", "random" (a code that is drawn) or "loss".
        domain: "a", "b" or "" for neither.
        column: Place from the left.
        row: Place from the top.
    """

    text: str
    kind: str
    domain: str
    column: float
    row: float

    @property
    def center(self) -> tuple[float, float]:
        """The center in pixels."""
        return _MARGIN + _COLUMN * self.column + _WIDTH / 2, _MARGIN + _ROW * self.row + _HEIGHT / 2


class Diagram(NamedTuple):
    """A diagram: what it shows, for readers who cannot see it, its boxes by name, and its arrows from name to name."""

    title: str
    boxes: dict[str, Box]
    arrows: Sequence[str]


MUNIT = Diagram(
    "MUNIT from A to B: reconstruction of x_a, its translation with a drawn style, and both codes of the translation",
    {
        "x": Box("image\nx_a", "image", "a", 0, 0.5),
        "style": Box("style\nencoder A", "network", "a", 1, 0),
        "content": Box("content\nencoder A", "network", "a", 1, 1),
        "s": Box("style s_a", "code", "a", 2, 0),
        "c": Box("content c_a", "code", "a", 2, 1),
        "drawn": Box("s_b ~ N(0, I)", "random", "b", 2, 2),
        "decode_a": Box("decoder A", "network", "a", 3, 0),
        "decode_b": Box("decoder B", "network", "b", 3, 2),
        "recon": Box("x_a again", "image", "a", 4, 0),
        "ab": Box("translation\nx_ab", "image", "b", 4, 2),
        "style_b": Box("style\nencoder B", "network", "b", 5, 2),
        "content_b": Box("content\nencoder B", "network", "b", 5, 1),
        "dis": Box("discrimi-\nnator B", "network", "b", 5, 3),
        "loss_x": Box("L1 to x_a\nrecon_x_a", "loss", "", 5, 0),
        "loss_c": Box("L1 to c_a\nrecon_c_a", "loss", "", 6, 1),
        "loss_s": Box("L1 to s_b\nrecon_s_b", "loss", "", 6, 2),
        "loss_adv": Box("real?\nadv_b", "loss", "", 6, 3),
    },
    [
        "x style", "x content", "style s", "content c", "s decode_a", "c decode_a", "c decode_b", "drawn decode_b",
        "decode_a recon", "decode_b ab", "recon loss_x", "ab content_b", "ab style_b", "ab dis", "content_b loss_c",
        "style_b loss_s", "dis loss_adv",
    ],
)  # fmt: skip

UNIT = Diagram(
    "UNIT from A to B: a noisy latent code is decoded by both decoders, and the translation is translated back",
    {
        "x": Box("image\nx_a", "image", "a", 0, 0.5),
        "encode": Box("encoder A", "network", "a", 1, 0.5),
        "h": Box("mean h_a", "code", "", 2, 0.5),
        "noise": Box("ε ~ N(0, I)", "random", "", 2, 1.5),
        "kl": Box("KL to N(0, I)\nrecon_kl_a", "loss", "", 2, -0.5),
        "z": Box("h_a + ε", "code", "", 3, 0.5),
        "decode_a": Box("decoder A", "network", "a", 4, 0),
        "decode_b": Box("decoder B", "network", "b", 4, 1.5),
        "recon": Box("x_a again", "image", "a", 5, 0),
        "loss_x": Box("L1 to x_a\nrecon_x_a", "loss", "", 6, 0),
        "ab": Box("translation\nx_ab", "image", "b", 5, 1.5),
        "dis": Box("discrimi-\nnator B", "network", "b", 6, 1),
        "loss_adv": Box("real?\nadv_b", "loss", "", 7, 1),
        "back": Box("encoder B, ε,\ndecoder A", "network", "b", 6, 2),
        "loss_cyc": Box("L1 to x_a\ncyc_x_a", "loss", "", 7, 2),
    },
    [
        "x encode", "encode h", "h kl", "h z", "noise z", "z decode_a", "z decode_b", "decode_a recon", "recon loss_x",
        "decode_b ab", "ab dis", "dis loss_adv", "ab back", "back loss_cyc",
    ],
)  # fmt: skip

CYCLEGAN = Diagram(
    "CycleGAN from A to B: translation, translation back, identity, and a discriminator that sees earlier translations",
    {
        "x": Box("image\nx_a", "image", "a", 0, 0),
        "gen_b": Box("generator B", "network", "b", 1, 0),
        "ab": Box("translation\nx_ab", "image", "b", 2, 0),
        "gen_a": Box("generator A", "network", "a", 3, 0),
        "aba": Box("back\nx_aba", "image", "a", 4, 0),
        "loss_cyc": Box("L1 to x_a\ncycrecon_x_a", "loss", "", 5, 0),
        "dis": Box("discrimi-\nnator B", "network", "b", 3, 1),
        "loss_adv": Box("real?\nadv_b", "loss", "", 4, 1),
        "pool": Box("pool of\ntranslations", "code", "b", 3, 2),
        "dis2": Box("discrimi-\nnator B", "network", "b", 4, 2),
        "loss_dis": Box("real?\ndis_b", "loss", "", 5, 2),
        "x_b": Box("image\nx_b", "image", "b", 0, 3),
        "gen_b2": Box("generator B", "network", "b", 1, 3),
        "bb": Box("x_bb", "image", "b", 2, 3),
        "loss_id": Box("L1 to x_b\nidentity_b", "loss", "", 3, 3),
    },
    [
        "x gen_b", "gen_b ab", "ab gen_a", "gen_a aba", "aba loss_cyc", "ab dis", "dis loss_adv", "ab pool",
        "pool dis2", "dis2 loss_dis", "x_b gen_b2", "gen_b2 bb", "bb loss_id",
    ],
)  # fmt: skip

BICYCLEGAN = Diagram(
    "BicycleGAN: above, the target's code is used; below, a random code is used and found again",
    {
        "x_b": Box("target\nx_b", "image", "b", 0, 0),
        "encoder": Box("encoder", "network", "b", 1, 0),
        "z": Box("mean + σ ε", "code", "b", 2, 0),
        "kl": Box("KL to N(0, I)\nkl", "loss", "", 2, -1),
        "x_a": Box("image\nx_a", "image", "a", 2, 1),
        "gen": Box("generator", "network", "b", 3, 0),
        "ab": Box("translation\nx_ab", "image", "b", 4, 0),
        "loss_x": Box("L1 to x_b\nrecon_x", "loss", "", 5, -1),
        "dis_e": Box("discrimi-\nnator 1", "network", "b", 5, 0),
        "adv_e": Box("real?\nadv_encoded", "loss", "", 6, 0),
        "drawn": Box("z ~ N(0, I)", "random", "b", 2, 2),
        "gen2": Box("generator", "network", "b", 3, 2),
        "random": Box("translation\nx_ab", "image", "b", 4, 2),
        "dis_r": Box("discrimi-\nnator 2", "network", "b", 5, 2),
        "adv_r": Box("real?\nadv_random", "loss", "", 6, 2),
        "encoder2": Box("encoder", "network", "b", 5, 3),
        "loss_s": Box("L1 to z\nrecon_s", "loss", "", 6, 3),
    },
    [
        "x_b encoder", "encoder z", "z kl", "z gen", "x_a gen", "x_a gen2", "drawn gen2", "gen ab", "ab loss_x",
        "ab dis_e", "dis_e adv_e", "gen2 random", "random dis_r", "dis_r adv_r", "random encoder2", "encoder2 loss_s",
    ],
)  # fmt: skip

DIAGRAMS = {"munit": MUNIT, "unit": UNIT, "cyclegan": CYCLEGAN, "bicyclegan": BICYCLEGAN}


def svg(diagram: Diagram) -> str:
    """Return a diagram as SVG, on a light background so that it can be read on dark pages."""
    top = min(box.row for box in diagram.boxes.values())
    boxes = {name: box._replace(row=box.row - top) for name, box in diagram.boxes.items()}
    width, height = (round(max(box.center[axis] for box in boxes.values())) for axis in (0, 1))
    width, height = width + _WIDTH // 2 + _MARGIN, height + _HEIGHT // 2 + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(diagram.title)}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        '<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{_GRAY}"/></marker>',
        *(_arrow(*(boxes[name] for name in arrow.split())) for arrow in diagram.arrows),
        *map(_box, boxes.values()),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _arrow(start: Box, end: Box) -> str:
    (x, y), (end_x, end_y) = start.center, end.center
    if start.column == end.column:
        sign = 1 if end_y > y else -1
        path = f"M{x:g} {y + sign * _HEIGHT / 2:g}V{end_y - sign * _HEIGHT / 2:g}"
    elif y == end_y:
        path = f"M{x + _WIDTH / 2:g} {y:g}H{end_x - _WIDTH / 2:g}"
    else:
        path = f"M{x + _WIDTH / 2:g} {y:g}h8V{end_y:g}H{end_x - _WIDTH / 2:g}"
    return f'<path d="{path}" fill="none" stroke="{_GRAY}" stroke-width="1.4" marker-end="url(#tip)"/>'


def _box(box: Box) -> str:
    x, y = box.center
    stroke, fill = _DOMAINS[box.domain]
    radius, extra = {"image": (0, ""), "network": (8, ' stroke-width="2.2"')}.get(box.kind, (_HEIGHT / 2, ""))
    if box.kind == "random":
        extra = ' stroke-dasharray="4 3"'
    shape = (
        f'<rect x="{x - _WIDTH / 2:g}" y="{y - _HEIGHT / 2:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius:g}" '
        f'fill="{fill if box.kind != "random" else "#ffffff"}" stroke="{stroke}"{extra}/>'
    )
    lines = box.text.split("\n")
    first = y + 5 - _LINE * (len(lines) - 1) / 2
    color = _RED if box.kind == "loss" else _INK
    texts = [
        f'<text x="{x:g}" y="{first + _LINE * number:g}" text-anchor="middle" fill="{color}"'
        f"{_font(box, number)}>{escape(line)}</text>"
        for number, line in enumerate(lines)
    ]
    return "\n".join([*([] if box.kind == "loss" else [shape]), *texts])


def _font(box: Box, line: int) -> str:
    return ' font-family="ui-monospace, monospace" font-size="12"' if box.kind == "loss" and line else ""


def main() -> None:
    """Write the diagrams."""
    for name, diagram in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(svg(diagram), encoding="utf-8")


if __name__ == "__main__":
    main()
