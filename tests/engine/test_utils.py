"""The field's `utils`, against the oracle's."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformer_lens
import transformer_lens.utils as theirs
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tl_widgets
from tests.engine.oracle import GPT2_LIKE, pair
from tl_widgets import FactoredMatrix, HookedTransformer
from tl_widgets import utils as ours
from tl_widgets.errors import BadInput

CLOSE = dict(atol=1e-4, rtol=1e-4)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    words = {word: i for i, word in enumerate(["<eos>", "<unk>", *(f"w{i}" for i in range(2, 50))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<eos>", eos_token="<eos>", pad_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


@pytest.fixture
def tokenizer(tokenizer_path):
    return AutoTokenizer.from_pretrained(tokenizer_path)


@pytest.fixture
def models_that_read(tokenizer_path):
    their_model, our_model = pair(GPT2_LIKE)
    for model in (their_model, our_model):
        model.set_tokenizer(AutoTokenizer.from_pretrained(tokenizer_path))
    return their_model, our_model


# Tensors


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2)), torch.tensor(2), [1, 2], (1.0, 2), 1, 2.5,
     True, np.ones(2), torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)],
    ids=repr,
)  # fmt: skip
def test_to_numpy(value):
    mine, yours = ours.to_numpy(value), theirs.to_numpy(value)
    assert isinstance(mine, np.ndarray) and mine.dtype == yours.dtype
    np.testing.assert_array_equal(mine, yours)


def test_to_numpy_of_something_else():
    for value in (None, {}):
        with pytest.raises(ValueError, match=type(value).__name__):
            ours.to_numpy(value)


def test_corners():
    tensor = torch.arange(64.0).view(4, 4, 4)
    for n in (1, 3, 9):
        close(ours.get_corner(tensor, n), theirs.get_corner(tensor, n))
    close(ours.get_corner(tensor), tensor[:3, :3, :3])
    A, B = torch.randn(2, 5, 4), torch.randn(2, 4, 6)
    matrix = FactoredMatrix(A, B)
    expected = theirs.get_matrix_corner(transformer_lens.FactoredMatrix(A, B), 2)
    close(ours.get_matrix_corner(matrix, 2), expected)
    close(ours.get_matrix_corner(matrix.AB, 2), expected)
    assert isinstance(ours.get_corner(matrix), FactoredMatrix)


MATRICES = [
    torch.ones(2, 2), torch.ones(2, 3), torch.ones(3, 2, 2), torch.ones(2), torch.tril(torch.ones(3, 3)),
    torch.triu(torch.ones(3, 3)), torch.eye(4), torch.zeros(2, 2), torch.ones(1, 1),
]  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda m: str(m.tolist()))
def test_shapes_of_matrices(matrix):
    assert ours.is_square(matrix) == theirs.is_square(matrix)
    assert ours.is_lower_triangular(matrix) == theirs.is_lower_triangular(matrix)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (1,), (3,), (1, 1, 2)], ids=str)
def test_remove_batch_dim(shape):
    assert ours.remove_batch_dim(torch.ones(shape)).shape == theirs.remove_batch_dim(torch.ones(shape)).shape


def test_repeat_transpose_and_cumsum():
    tensor = torch.randn(2, 3, 4)
    for clone in (True, False):
        mine = ours.repeat_along_head_dimension(tensor, 5, clone_tensor=clone)
        yours = theirs.repeat_along_head_dimension(tensor, 5, clone_tensor=clone)
        close(mine, yours)
        assert (mine.data_ptr() == tensor.data_ptr()) == (not clone)
    close(ours.transpose(tensor), theirs.transpose(tensor))
    for dim in (0, 1, -1):
        for reverse in (False, True):
            mine = ours.get_cumsum_along_dim(tensor, dim, reverse=reverse)
            close(mine, theirs.get_cumsum_along_dim(tensor, dim, reverse=reverse))


def test_check_structure(capsys):
    same, other = torch.tensor([[1.0, 2], [3, 0]]), torch.tensor([[1.0, 2], [0, 3]])
    ours.check_structure(same, 2 * same)
    assert capsys.readouterr().out == "PASSED\n"
    theirs.check_structure(same, other)
    expected = capsys.readouterr().out
    ours.check_structure(same, other, verbose=True)
    printed = capsys.readouterr().out
    assert "row mismatch: [0]" in expected and expected in printed
    assert "rows 0:1\n\tt1: [False, True]\n\tt2: [True, False]" in printed
    with pytest.raises(AssertionError, match=r"\[2, 2\] and \[3, 3\]"):
        ours.check_structure(same, torch.eye(3))


def test_lm_accuracy():
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(3, 9, 4, generator=generator), torch.randint(0, 4, (3, 9), generator=generator)
    close(ours.lm_accuracy(logits, tokens), theirs.lm_accuracy(logits, tokens))
    per_token = ours.lm_accuracy(logits, tokens, per_token=True)
    assert per_token.dtype == torch.bool and per_token.any() and not per_token.all()
    assert torch.equal(per_token, theirs.lm_accuracy(logits, tokens, per_token=True))


# Names and surroundings


def test_dicts_by_prefix():
    weights = {"a.b": 1, "a.c.d": 2, "ab.c": 3, "a": 4}
    for prefix in ("a", "a.", "a.c", "z"):
        assert ours.filter_dict_by_prefix(weights, prefix) == theirs.filter_dict_by_prefix(weights, prefix)


def test_attributes_by_path():
    model = HookedTransformer(GPT2_LIKE)
    assert ours.get_nested_attr(model, "blocks.1.attn.W_Q") is model.blocks[1].attn.W_Q
    replacement = torch.nn.Identity()
    ours.set_nested_attr(model, "blocks.1.mlp", replacement)
    assert model.blocks[1].mlp is replacement
    ours.set_nested_attr(model, "anything", 3)
    assert model.anything == 3
    with pytest.raises(AttributeError, match="nothing"):
        ours.get_nested_attr(model, "blocks.0.nothing.here")


def test_surroundings(capsys):
    for name in ("torch", "no_such_library_at_all"):
        assert ours.is_library_available(name) == theirs.is_library_available(name)
    assert torch.zeros(1, device=ours.get_device()).device.type == ours.get_device()
    for step in ("", "after loading"):
        ours.print_gpu_mem(step)
        mine = capsys.readouterr().out
        theirs.print_gpu_mem(step)
        assert mine == capsys.readouterr().out


def test_a_missing_library_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("tl_widgets.environment.is_library_available", lambda name: False)
    with pytest.raises(ImportError, match=r"logits_to_df needs pandas.*pip install pandas"):
        ours.logits_to_df(torch.ones(3))


def test_importing_the_package_imports_neither_pandas_nor_datasets():
    code = "import sys, tl_widgets; print([m for m in ('pandas', 'datasets', 'transformer_lens') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Defaults


def test_defaults_overridden_for_a_while(models_that_read):
    for default, override in ((True, None), (True, False), (False, True), ("left", None)):
        expected = theirs.override_or_use_default_value(default, override)
        assert ours.override_or_use_default_value(default, override) == expected
    _, model = models_that_read
    with_bos = model.to_tokens(["w3 w4", "w5"], padding_side="right")
    with ours.LocallyOverridenDefaults(model, prepend_bos=False, padding_side="left"):
        assert model.cfg.default_prepend_bos is False and model.tokenizer.padding_side == "left"
        assert model.to_tokens(["w3 w4", "w5"]).tolist() == [[3, 4], [0, 5]]
    assert model.cfg.default_prepend_bos is True and model.tokenizer.padding_side == "right"
    assert torch.equal(model.to_tokens(["w3 w4", "w5"]), with_bos)
    with pytest.raises(ZeroDivisionError), ours.LocallyOverridenDefaults(model, prepend_bos=False):
        1 / 0  # noqa: B018
    assert model.cfg.default_prepend_bos is True and model.to_tokens("w3").tolist() == [[0, 3]]
    with ours.LocallyOverridenDefaults(model, prepend_bos=None, padding_side=None):
        assert model.cfg.default_prepend_bos is True and model.tokenizer.padding_side == "right"
    for mistake in (dict(prepend_boss=True), dict(padding_side="up"), dict(prepend_bos="no")):
        with pytest.raises(AssertionError, match=r"prepend_bos|'left'|True"):
            ours.LocallyOverridenDefaults(model, **mistake)
    with pytest.raises(BadInput, match="has none"):
        ours.LocallyOverridenDefaults(HookedTransformer(GPT2_LIKE), padding_side="left")


# What a model says


def test_logits_to_df(tokenizer):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for options in ({}, dict(top_k=3), dict(tokenizer=tokenizer), dict(tokenizer=tokenizer, top_k=99), dict(top_k=0)):
        mine, yours = ours.logits_to_df(logits, **options), theirs.logits_to_df(logits, **options)
        assert list(mine.columns) == list(yours.columns) and len(mine) == len(yours)
        for column in mine.columns:
            if column == "token_string" or not len(mine):
                assert list(mine[column]) == list(yours[column])
            else:
                np.testing.assert_allclose(mine[column], yours[column], rtol=1e-5)
    with pytest.raises(ValueError, match="one position"):
        ours.logits_to_df(logits[None])
    with pytest.raises(ValueError, match="-1"):
        ours.logits_to_df(logits, top_k=-1)


@pytest.mark.parametrize("options", [{}, dict(print_details=False), dict(top_k=3), dict(prepend_bos=False)], ids=str)
@pytest.mark.parametrize("answer", ["w3", " w3", "w3 w4 w9", ["w3", "w5"], ["w3 w4", "w5"], ["w3"]], ids=str)
def test_test_prompt_prints_what_the_oracle_prints(models_that_read, capsys, answer, options):
    printed = []
    for module, model in zip((theirs, ours), models_that_read, strict=True):
        module.test_prompt("w10 w20 w30", answer, model, **options)
        printed.append(capsys.readouterr().out.split())
    assert printed[0] == printed[1]
    assert printed[1][-1].endswith("]")


def test_test_prompt_refuses_several_prompts(models_that_read):
    with pytest.raises(BadInput, match="one prompt"):
        ours.test_prompt(["w1", "w2"], "w3", models_that_read[1])
    with pytest.raises(BadInput, match="at least one answer"):
        ours.test_prompt("w1", [], models_that_read[1])


def test_tokens_of_strings(models_that_read):
    their_model, our_model = models_that_read
    close(our_model.tokens_to_residual_directions("w7"), their_model.tokens_to_residual_directions("w7"))
    close(our_model.tokens_to_residual_directions(["w7", "w8"]), our_model.W_U.T[[7, 8]])
    with pytest.raises(AssertionError, match="not one token but 2"):
        our_model.tokens_to_residual_directions("w7 w8")
    for options in ({}, dict(mode="last"), dict(prepend_bos=False)):
        expected = their_model.get_token_position("w7", "w9 w7 w7", **options)
        assert our_model.get_token_position("w7", "w9 w7 w7", **options) == expected


# Corpora


DOCUMENTS = ["w2 w3 w4", "w5", "w6 w7 w8 w9 w10", "w11 w12", "", "w13"]


@pytest.mark.parametrize(
    "options",
    [dict(max_length=4), dict(max_length=4, add_bos_token=False), dict(max_length=3), dict(max_length=100),
     dict(max_length=3, set_format=False), dict(max_length=2, num_proc=2)],
    ids=str,
)  # fmt: skip
def test_tokenize_and_concatenate(tokenizer, options):
    rows = []
    for module in (ours, theirs):
        data = datasets.Dataset.from_dict({"text": DOCUMENTS, "meta": range(len(DOCUMENTS))})
        tokens = module.tokenize_and_concatenate(data, tokenizer, **({"num_proc": None} | options))
        assert tokens.column_names == ["tokens"]
        rows.append(tokens["tokens"][:])
    assert type(rows[0]) is type(rows[1])
    assert torch.as_tensor(rows[0]).tolist() == torch.as_tensor(rows[1]).tolist()


def test_tokenize_and_concatenate_streamed_and_mistaken(tokenizer):
    data = datasets.Dataset.from_dict({"words": DOCUMENTS})
    options = dict(max_length=4, column_name="words", set_format=False)
    streamed = ours.tokenize_and_concatenate(data.to_iterable_dataset(), tokenizer, streaming=True, **options)
    at_once = ours.tokenize_and_concatenate(data, tokenizer, num_proc=None, **options)
    assert [list(row["tokens"]) for row in streamed] == at_once["tokens"][:]
    with pytest.raises(ValueError, match="'words'"):
        ours.tokenize_and_concatenate(data, tokenizer, column_name="word")
    with pytest.raises(BadInput, match="max_length is at least 2"):
        ours.tokenize_and_concatenate(data, tokenizer, max_length=1, column_name="words")
    without_bos = SimpleNamespace(bos_token_id=None, eos_token_id=0, pad_token_id=0)
    with pytest.raises(BadInput, match="BOS"):
        ours.tokenize_and_concatenate(data, without_bos, column_name="words")


def test_the_names_of_the_package():
    for name in ("FactoredMatrix", "SVDInterpreter"):
        assert name in tl_widgets.__all__ and getattr(tl_widgets, name).__name__ == name
