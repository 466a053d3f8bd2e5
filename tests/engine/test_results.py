"""Results: selected by label, taken on as tables and figures, added and subtracted."""

from __future__ import annotations

import io

import pytest
import torch
from matplotlib.figure import Figure

from tl_widgets.results import Result, layers_and_heads

LABELS = {"kind": ["a", "b"]} | layers_and_heads(12, 3)


@pytest.fixture
def result():
    return Result(torch.arange(72.0).view(2, 12, 3), ("kind", "layer", "head"), LABELS, "score")


def test_selecting_by_label(result):
    assert result["b", "L11H2"] == result["b"]["L11H2"] == result["b"]["L11", "H2"] == result[1, 11, 2] == 71.0
    assert result["L1H2"].axes == ("kind",) and result["L1H2"].values.tolist() == [5.0, 41.0]
    assert result["L1"].axes == ("kind", "head") and result["L11H2"].values[0] == 35.0  # L1 is no beginning of L11
    assert result[:, -1].axes == ("kind", "head")
    few = result[1, 2:4]
    assert few.labels_of("layer") == ["L2", "L3"] and few["L3H0"] == result["b", "L3H0"]
    assert result[:, [3, 1]].labels_of("layer") == ["L3", "L1"]
    assert result[1].labels_of("layer")[5] == "L5"
    assert result[..., 2].axes == ("kind", "layer") and result[1, ..., 2]["L3"] == result["b", "L3H2"]


@pytest.mark.parametrize(
    "key, message",
    [
        ("L5H7", "Unknown label 'L5H7'"),
        ("c", "Unknown label 'c'"),
        (("a", "b"), "is given twice|Unknown label"),
        ((0, 0, 0, 0), "3 axes"),
    ],
)
def test_a_wrong_label_is_an_error_that_names_right_ones(result, key, message):
    with pytest.raises((KeyError, ValueError), match=message):
        result[key]


def test_a_label_that_is_there_twice_is_asked_for_by_number():
    tokens = Result(torch.arange(3.0), ("pos",), {"pos": [" the", " cat", " the"]})
    assert tokens[" cat"] == 1.0
    with pytest.raises(ValueError, match=r"' the' is at pos \[0, 2\]"):
        tokens[" the"]


def test_shapes_have_to_fit():
    with pytest.raises(ValueError, match="2 axes"):
        Result(torch.zeros(3), ("layer", "head"))
    with pytest.raises(ValueError, match="2 labels for the 3 entries of"):
        Result(torch.zeros(3), ("pos",), {"pos": ["a", "b"]})


def test_top_leaves_out_what_is_not_defined():
    result = Result(torch.tensor([[1.0, -5.0], [float("nan"), 2.0]]), ("layer", "head"), layers_and_heads(2, 2))
    assert result.top(3) == [("L1H1", 2.0), ("L0H0", 1.0), ("L0H1", -5.0)]
    assert result.top(1, by="size") == [("L0H1", -5.0)]
    assert "L1H1" in repr(result) and "nan" not in repr(result)
    with pytest.raises(KeyError, match="'value'"):
        result.top(1, by="valu")


def test_table(result):
    table = result.to_dataframe()
    assert list(table) == ["kind", "layer", "head", "score"] and len(table) == 72
    assert table.query("kind == 'b' and layer == 'L11' and head == 'H2'")["score"].item() == 71.0


def test_arithmetic(result):
    assert ((result - result) * 2)["a", "L1H1"] == 0.0
    assert (-result / 2 + 1)["b", "L0H0"] == -17.0
    assert (result * -1).abs()["b", "L0H0"] == 36.0
    with pytest.raises(ValueError, match=r"\[kind 2, layer 12, head 3\] and \[layer 12, head 3\]"):
        result - result["a"]
    with pytest.raises(TypeError):
        result + "1"


@pytest.mark.parametrize("key", [slice(None), "a", ("a", "L3")], ids=["panels", "map", "bars"])
def test_figures(result, key):
    figure = result[key].plot("a title")
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert figure.get_suptitle() == "a title"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == (["a", "b"] if key == slice(None) else [])


def test_a_figure_shows_tokens_as_they_are_and_signs_about_zero():
    tokens = [" $x$", "<b>", "\n", "_{", " ", "\\", "^"]
    signed = Result(torch.tensor([[-1.0, 0, 1, 2, 3, 4, float("nan")]]), ("layer", "pos"), {"pos": tokens}, "effect")
    figure = signed.plot()
    figure.canvas.draw()
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-4.0, 4.0)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == [r"·\$x\$", "<b>", "⏎", "_{", "·", "\\", "^"]
    figure.savefig(io.BytesIO())


def test_too_much_for_a_figure_says_what_to_do():
    with pytest.raises(ValueError, match="select first"):
        Result(torch.zeros(1, 2, 3, 4), ("a", "b", "c", "d")).plot()
    with pytest.raises(ValueError, match="9 panels"):
        Result(torch.zeros(9, 2, 3), ("a", "b", "c")).plot()
