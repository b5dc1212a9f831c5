"""The figure of the network and its objective, docs/figures/method.svg: `python -m docs.site.method_figure`."""

from pathlib import Path
from xml.sax.saxutils import escape

FIGURE = Path(__file__).parents[1] / "figures/method.svg"
WIDTH, HEIGHT = 980, 430
TITLE = "Pre-training by masked image modelling in space and frequency, and what fine-tuning takes over"
COLOURS = {"data": "#e8eef7", "net": "#dcefe1", "loss": "#fbe6d4", "new": "#f3f3f3"}


def figure() -> str:
    """Return the figure as SVG, readable on a light and on a dark page."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{TITLE}">',
        f"<title>{TITLE}</title>",
        "<style>text{font:14px sans-serif;fill:#222;text-anchor:middle}.s{font-size:12px;fill:#555}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff" rx="6"/>',
        _label(110, 20, "Pre-training, without labels"),
        _box(20, 90, 120, "image crop x", "one modality", "data"),
        _box(180, 90, 120, "masked x", "75 % of patches", "data"),
        _box(340, 90, 130, "encoder", "Swin or U-Net, 4 scales", "net"),
        _box(510, 45, 140, "pixel decoder", "joins all scales", "net"),
        _box(510, 140, 140, "frequency decoder", "filters the spectrum", "net"),
        _box(690, 45, 90, "p", "rebuilt", "data"),
        _box(690, 140, 90, "q", "rebuilt", "data"),
        _box(820, 45, 145, "squared error", "masked voxels", "loss"),
        _box(820, 140, 145, "focal frequency loss", "masked patches", "loss"),
        _arrow(140, 115, 180, 115), _arrow(300, 115, 340, 115), _arrow(470, 108, 510, 76), _arrow(580, 95, 580, 140),
        _arrow(650, 70, 690, 70), _arrow(650, 165, 690, 165), _arrow(780, 70, 820, 70), _arrow(780, 165, 820, 165),
        _path("M80 140 V215 H892 V190"), _path("M80 90 V32 H892 V45"),
        _label(490, 232, "x, the target", "s"),
        _label(115, 275, "Fine-tuning, with few labels"),
        _box(20, 320, 120, "images", "all channels", "data"),
        _box(340, 320, 130, "encoder", "the same weights", "net"),
        _box(510, 320, 140, "new decoder", "with skip connections", "new"),
        _box(690, 320, 275, "segmentation, class, number or survival", "nnU-Net's loss, or the task's", "loss"),
        _arrow(140, 345, 340, 345), _arrow(470, 345, 510, 345), _arrow(650, 345, 690, 345),
        _path("M405 140 V320", dashed=True), _label(452, 262, "taken over", "s"),
        _label(490, 408, "green: pre-trained, of which the encoder alone is kept by default; grey: starts anew", "s"),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _box(left: int, top: int, width: int, name: str, detail: str, kind: str) -> str:
    middle = left + width // 2
    shape = f'<rect x="{left}" y="{top}" width="{width}" height="50" rx="5" fill="{COLOURS[kind]}" stroke="#555"/>'
    return shape + _label(middle, top + 21, name) + _label(middle, top + 39, detail, "s")


def _label(across: int, down: int, text: str, kind: str = "") -> str:
    return f'<text x="{across}" y="{down}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _arrow(left: int, top: int, right: int, bottom: int) -> str:
    return _path(f"M{left} {top} L{right} {bottom}")


def _path(line: str, *, dashed: bool = False) -> str:
    style = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{line}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#a)"{style}/>'


if __name__ == "__main__":
    FIGURE.write_text(figure(), encoding="utf-8")
