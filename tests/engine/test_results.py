"""Results: selected by label, taken on as tables and figures, added and subtracted."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tl_widgets.analysis import DirectLogitAttribution, TopNeurons
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


def test_arithmetic_with_tensors_and_numbers_on_either_side(result):
    other = torch.full((2, 12, 3), 100.0)
    for given in (other, other.numpy(), 100, np.float64(100)):
        for difference in (result - given, -(given - result)):
            assert isinstance(difference, Result) and difference["b", "L11H2"] == -29.0
    assert (2 / (1 + result))["a", "L0H1"] == 1.0 and (2 * result)["b", "L11H2"] == 142.0
    with pytest.raises(ValueError, match=r"a tensor \[3\]"):
        result - torch.zeros(3)


def test_a_result_is_a_row_of_its_first_axis(result):
    assert len(result) == 2 and [each.axes for each in result] == [("layer", "head")] * 2
    assert list(result["b", "L11"]) == [69.0, 70.0, 71.0]
    assert "L1H2" in result and "a" in result and "L1H3" not in result and 3.0 not in result
    assert np.array_equal(np.asarray(result), result.values.numpy())
    half = Result(torch.ones(2, dtype=torch.bfloat16), ("pos",))
    assert np.asarray(half).dtype == np.float32 and np.asarray(half, dtype=int).tolist() == [1, 1]


def test_what_is_made_of_an_attribution_is_one_as_long_as_it_has_components():
    labels = [f"L{layer}H{head}" for layer in range(3) for head in range(2)] + ["remainder"]
    attribution = DirectLogitAttribution(torch.arange(14.0).view(7, 2), labels, "head")
    for made in (attribution - attribution * 2, attribution[:, 0], attribution.abs(), 1 - attribution):
        assert isinstance(made, DirectLogitAttribution) and made.labels == labels and made.unit == "head"
        assert made.plot().axes[0].get_xlabel() == "head"
    some = attribution[1:4]
    assert some.labels == ["L0H1", "L1H0", "L1H1"] and some.plot().axes[0].get_xlabel() == "batch"
    assert type(attribution["L1H0"]) is Result
    neurons = TopNeurons(torch.ones(2, 3), ("layer", "neuron"))
    assert type(neurons - neurons) is TopNeurons and type(neurons[:, :2]) is TopNeurons and type(neurons[0]) is Result


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
    with pytest.raises(ValueError, match=r"one prompt, as in result\[:, :, 0\]"):
        Result(torch.zeros(1, 2, 3, 4), ("layer", "head", "batch", "pos")).plot()
    with pytest.raises(ValueError, match=r"9 panels.*one prompt, as in result\[:, 0\]"):
        Result(torch.zeros(9, 2, 3), ("component", "batch", "pos")).plot()
    with pytest.raises(ValueError, match="9 panels"):
        Result(torch.zeros(9, 2, 3), ("a", "b", "c")).plot()
