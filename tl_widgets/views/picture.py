"""A cache as a picture: what GitHub, and a notebook that may not run scripts, show in place of the view."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from tl_widgets.cache import ActivationCache
from tl_widgets.text import pieces
from tl_widgets.views.cache_view import layers_to_show, pattern
from tl_widgets.views.thumbnails import pool

# Pixels for one CSS pixel.
SCALE = 2
_INK, _FAINT, _LINE, _ACCENT = (33, 37, 41), (125, 132, 140), (226, 230, 234), (25, 103, 210)
# White to a deep blue, like the view in the light theme.
_RAMP = np.array([(255, 255, 255), (168, 196, 228), (58, 118, 184), (10, 46, 104)], dtype=float)
_THUMB, _GAP, _MARGIN, _PATTERN = 22, 3, 16, 460
_LONGEST_LABEL = 14


def picture(cache: ActivationCache, layer: int, head: int, example: int = 0) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG of all thumbnails and one large pattern, and its size in pixels."""
    layers = layers_to_show(cache)
    n_heads, n_pos = pattern(cache, example, layers[0]).shape[:2]
    step = _THUMB + _GAP
    labels = _labels(cache, example, n_pos)
    label_width = int(max(_width(label, 11) for label in labels)) + 10 if n_pos <= 48 else 0
    top = 74
    grid_x, pattern_x = _MARGIN + 26, _MARGIN + 26 + n_heads * step + 36 + label_width
    pattern_y = top + int(label_width * 0.75) + 8
    width = pattern_x + _PATTERN + label_width // 2 + _MARGIN
    height = max(top + len(layers) * step, pattern_y + _PATTERN) + _MARGIN + 4

    image = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    page = ImageDraw.Draw(image)
    cfg = cache.model.cfg
    _text(page, _MARGIN, 14, cfg.model_name, 14, _INK)
    size = f"{cfg.n_layers} layers x {cfg.n_heads} heads, {n_pos} tokens"
    _text(page, _MARGIN + _width(cfg.model_name, 14) + 12, 16, size, 12, _FAINT)
    _text(page, grid_x, 40, "attention patterns, layer by head", 11, _FAINT)
    _text(page, pattern_x, 40, f"L{layer}H{head}", 12, _INK)

    for h in range(n_heads):
        _text(page, grid_x + h * step + _THUMB / 2, top - 9, str(h), 9, _FAINT, "mm")
    for row, number in enumerate(layers):
        y = top + row * step
        _text(page, grid_x - 8, y + _THUMB / 2, str(number), 9, _FAINT, "rm")
        small = pool(pattern(cache, example, number), *[min(n_pos, _THUMB * SCALE)] * 2)
        for h in range(n_heads):
            _paste(image, small[h], grid_x + h * step, y, _THUMB)
            chosen = number == layer and h == head
            _frame(page, grid_x + h * step, y, _THUMB, _ACCENT if chosen else _LINE, 2 if chosen else 1)

    large = pool(pattern(cache, example, layer)[head], *[min(n_pos, _PATTERN * SCALE)] * 2)
    _paste(image, large, pattern_x, pattern_y, _PATTERN)
    _frame(page, pattern_x, pattern_y, _PATTERN, _LINE, 1)
    if label_width:
        cell = _PATTERN / n_pos
        for i, label in enumerate(labels):
            _text(page, pattern_x - 6, pattern_y + (i + 0.5) * cell, label, 11, _FAINT, "rm")
            _slanted(image, label, pattern_x + (i + 0.5) * cell, pattern_y - 4)
    buffer = io.BytesIO()
    few_colours = image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few_colours.save(buffer, "PNG")
    return buffer.getvalue(), image.size


def _labels(cache: ActivationCache, example: int, n_pos: int) -> list[str]:
    tokenizer = getattr(cache.model, "tokenizer", None)
    if tokenizer is None or cache.tokens is None:
        return [str(i) for i in range(n_pos)]
    shown = [
        piece.hex(" ") if isinstance(piece, bytes) else piece.replace("\n", "\u21b5").replace("\t", "\u21e5")
        for piece in pieces(tokenizer, cache.tokens[example].tolist())
    ]
    shown = ["\u00b7" + piece[1:] if piece.startswith(" ") else piece for piece in shown]
    return [piece if len(piece) <= _LONGEST_LABEL else piece[: _LONGEST_LABEL - 1] + "\u2026" for piece in shown]


def _colours(weights: torch.Tensor) -> np.ndarray:
    """Weights from 0 to 1 -> RGB; NaN is grey."""
    values = weights.detach().float().cpu().numpy()
    place = np.nan_to_num(np.clip(values, 0, 1)) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    rgb = _RAMP[low] + (place - low)[..., None] * (_RAMP[low + 1] - _RAMP[low])
    rgb[np.isnan(values)] = 190
    return rgb.round().astype(np.uint8)


def _paste(image: Image.Image, weights: torch.Tensor, x: float, y: float, side: int) -> None:
    cells = Image.fromarray(_colours(weights))
    image.paste(
        cells.resize((side * SCALE, side * SCALE), Image.Resampling.NEAREST), (round(x * SCALE), round(y * SCALE))
    )


def _frame(page: ImageDraw.ImageDraw, x: float, y: float, side: int, colour: tuple[int, int, int], width: int) -> None:
    box = [x * SCALE - width * SCALE, y * SCALE - width * SCALE]
    page.rectangle(
        [*box, (x + side + width) * SCALE - 1, (y + side + width) * SCALE - 1], outline=colour, width=width * SCALE
    )


@lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    import matplotlib

    # matplotlib brings the font along, so that the picture is the same everywhere.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size * SCALE)


def _width(text: str, size: float) -> float:
    return _font(size).getlength(text) / SCALE


def _text(
    page: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    page.text((x * SCALE, y * SCALE), text, fill=colour, font=_font(size), anchor=anchor)


def _slanted(image: Image.Image, text: str, x: float, y: float) -> None:
    """Write text that rises to the right from (x, y)."""
    font = _font(11)
    box = [int(font.getlength(text)) + 4, 16 * SCALE]
    strip = Image.new("L", (box[0], box[1]), 0)
    ImageDraw.Draw(strip).text((2, box[1] / 2), text, fill=255, font=font, anchor="lm")
    turned = strip.rotate(50, expand=True, resample=Image.Resampling.BICUBIC)
    # The lower left end of the turned strip is where the text begins.
    image.paste(_FAINT, (round(x * SCALE - box[1] / 2), round(y * SCALE - turned.height + box[1] / 4)), turned)
