"""Matplotlib figures of results: bars, heat maps, rows of heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tl_widgets.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Both are safe for colour-blind eyes.
SIGNED, UNSIGNED = "RdBu_r", "Blues"
_MOST_PANELS = 8
_MOST_LABELS = 80  # on one axis; beyond that every second, third, ... is written
_LONGEST_TEXT = 8
_DWARFS = 50  # how often the median a value is, before colours go by orders of magnitude
# Inches
_CELL = 0.24
_CELL_WITH_TEXT = 0.5
_WIDEST = 14.0

Axis = tuple[str, "list[str] | None"]  # its name, and the names of its entries


def draw(
    values: np.ndarray,
    axes: list[Axis],
    quantity: str,
    title: str | None = None,
    texts: list[list[str]] | None = None,
) -> Figure:
    """Draw `values`, one dimension an axis: up to three.

    `texts` are written into the cells of a map.
    """
    import matplotlib.pyplot as plt

    names = [name for name, _ in axes]
    if values.ndim == 0 or values.ndim > 3:
        raise BadInput(
            f"A figure shows one to three axes, not {values.ndim} ({', '.join(names)}): "
            f"select first, {_selecting(names)}."
        )
    if values.ndim == 3 and len(values) > _MOST_PANELS:
        example = _selecting(names) if "batch" in names else "as in result[:4]"
        raise BadInput(f"{len(values)} panels, one for each {names[0]}, are too many: select some, {example}.")
    figure = _bars(plt, values, axes[0], quantity) if values.ndim == 1 else _maps(plt, values, axes, quantity, texts)
    if title is not None:
        figure.suptitle(title)
    plt.close(figure)  # else a notebook shows it a second time, by itself
    return figure


def _selecting(names: list[str]) -> str:
    """How to have an axis less: one prompt of a batch, if there is one."""
    if "batch" not in names:
        return "as in result[0]"
    return f"one prompt, as in result[{':, ' * names.index('batch')}0]"


def _bars(plt: Any, values: np.ndarray, axis: Axis, quantity: str) -> Figure:
    name, labels = axis
    size = (min(max(4.0, _CELL * len(values) + 1), _WIDEST), 3.2)
    figure, plot = plt.subplots(figsize=size, layout="constrained")
    plot.bar(np.arange(len(values)), values, color=plt.get_cmap(SIGNED)(np.where(values >= 0, 0.85, 0.15)))
    plot.axhline(0, color="0.5", linewidth=0.8)
    plot.set_ylabel(quantity)
    _name(plot.xaxis, name, labels, len(values), rotation=90)
    plot.margins(x=0.01)
    return figure


def _maps(
    plt: Any, values: np.ndarray, axes: list[Axis], quantity: str, texts: list[list[str]] | None = None
) -> Figure:
    panels = values if values.ndim == 3 else values[None]
    (row, row_labels), (column, column_labels) = axes[-2:]
    n_rows, n_columns = panels.shape[1:]
    cell = _CELL if texts is None else _CELL_WITH_TEXT
    width, height = max(3.0, cell * n_columns + 1.4), max(2.4, _CELL * n_rows + 1.2)
    figure, plots = plt.subplots(
        1,
        len(panels),
        figsize=(min(len(panels) * width, _WIDEST), min(height, _WIDEST)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    titles = axes[0][1] or [f"{axes[0][0]} {i}" for i in range(len(panels))]
    colors = _colors(values)
    for panel, plot, title in zip(panels, plots[0], titles if values.ndim == 3 else [""], strict=True):
        image = plot.imshow(panel, aspect="auto", interpolation="nearest", **colors)
        _name(plot.xaxis, column, column_labels, n_columns, rotation=90)
        plot.set_title(_literal(title), fontsize=10)
    _name(plots[0][0].yaxis, row, row_labels, n_rows)
    if texts is not None:
        _write(plots[0][0], image, panels[0], texts)
    figure.colorbar(image, ax=list(plots[0]), label=quantity, shrink=0.8, aspect=30)
    return figure


def _colors(values: np.ndarray) -> dict[str, Any]:
    """Diverging about zero where there are signs; by orders of magnitude where a few values dwarf the rest."""
    from matplotlib.colors import LogNorm

    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if finite.size else 1.0
    if finite.size and finite.min() < 0:
        return dict(cmap=SIGNED, vmin=-largest, vmax=largest)
    if finite.size and finite.min() > 0 and largest > _DWARFS * np.median(finite):
        return dict(cmap=UNSIGNED, norm=LogNorm(finite.min(), largest))
    return dict(cmap=UNSIGNED, vmin=0, vmax=largest or 1)


def _write(plot: Any, image: Any, panel: np.ndarray, texts: list[list[str]]) -> None:
    """Write into each cell what fits, dark on light and light on dark."""
    for (row, column), value in np.ndenumerate(panel):
        red, green, blue, _ = image.cmap(image.norm(value))
        color = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.55 else "white"
        shown = _literal(texts[row][column].strip()[:_LONGEST_TEXT])
        plot.text(column, row, shown, ha="center", va="center", fontsize=6, color=color)


def _name(axis: Any, name: str, labels: list[str] | None, size: int, rotation: int = 0) -> None:
    axis.set_label_text(name)
    if labels is None:
        return
    step = -(-size // _MOST_LABELS)
    axis.set_ticks(range(0, size, step), [_literal(label) for label in labels[::step]], fontsize=7, rotation=rotation)


def _literal(label: str) -> str:
    """Text as it is: a dollar sign starts mathematics in matplotlib, and spaces at the ends would not be seen."""
    shown = label.replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")
    return shown.replace(" ", "·", 1) if shown.startswith(" ") else shown
