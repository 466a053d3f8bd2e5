"""Running: arguments in every form, masks, losses, and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.engine.oracle import CONFIGS, GPT2_LIKE, pair
from tl_widgets import HookedTransformer

TOKENS = torch.arange(1, 11)[None]
CLOSE = dict(atol=1e-5, rtol=1e-5)
WORDS = {"<end>": 0, "a": 1, "b": 2, "c": 3, "<pad>": 4}


def tokenizer(**special):
    words = Tokenizer(WordLevel(WORDS, unk_token="<end>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def reader(**special):
    return HookedTransformer(GPT2_LIKE, tokenizer(**special))


@pytest.fixture(scope="module")
def model():
    return HookedTransformer(GPT2_LIKE)


def test_run_with_cache_reads_its_arguments_as_forward_does():
    model = reader(eos_token="<end>")
    for arguments in (("a b",), ("a b", "logits", False, False), ("a b", "logits", False, None, "left")):
        logits, cache = model.run_with_cache(*arguments)
        torch.testing.assert_close(logits, model(*arguments), **CLOSE)
        assert cache.tokens.shape[1] == logits.shape[1]
    logits, cache = model.run_with_cache(input=["a b", "a"], padding_side="left", return_type="both")
    torch.testing.assert_close(logits.logits, model(["a b", "a"], padding_side="left"), **CLOSE)
    assert cache.mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    residual = model("a b", stop_at_layer=1)
    torch.testing.assert_close(model.run_with_cache(residual, "logits", False, None, None, 1)[0], model("a b"), **CLOSE)


def test_positional_arguments_come_in_the_fields_order():
    theirs, ours = pair(GPT2_LIKE)
    residual = ours(TOKENS, stop_at_layer=1)
    arguments = ("loss", False, None, None, 1, TOKENS)
    torch.testing.assert_close(ours(residual, *arguments), theirs(residual, *arguments), **CLOSE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_return_type_still_runs_the_final_norm(config):
    theirs, ours = pair(config)
    out, cache = ours.run_with_cache(TOKENS, return_type=None)
    assert out is None
    assert set(cache) == set(theirs.run_with_cache(TOKENS, return_type=None)[1].keys())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.int64])
def test_tokens_of_any_width_and_form(model, dtype):
    expected = model(TOKENS, return_type="loss")
    for tokens in (TOKENS.numpy().astype(dtype), TOKENS[0].numpy().astype(dtype), TOKENS[0].tolist()):
        torch.testing.assert_close(model(tokens, return_type="loss"), expected)


@pytest.mark.parametrize(
    "bad, error, message",
    [
        (dict(input=[[1, 2], [3]]), ValueError, "rows of one length"),
        (dict(input=TOKENS, stop_at_layer=1.0), TypeError, "whole number"),
        (dict(input=TOKENS, stop_at_layer=3), ValueError, "-2 to 2 in a model of 2 layers"),
        (dict(input=TOKENS, start_at_layer=-3), ValueError, "-2 to 2"),
        (dict(input=TOKENS, start_at_layer=0), ValueError, "residual stream"),
        (dict(input=TOKENS, return_type="logit"), ValueError, "'logits'"),
        (dict(input=TOKENS, attention_mask=torch.ones(1, 5)), ValueError, r"\[1, 5\], but the input is \[1, 10\]"),
        (dict(input=torch.zeros(1, 9, 16), start_at_layer=1, attention_mask=torch.ones(2, 5)), ValueError, r"\[1, 9\]"),
        (dict(input="text"), ValueError, "no tokenizer"),
    ],
    ids=str,
)
def test_what_is_refused(model, bad, error, message):
    with pytest.raises(error, match=message):
        model(**bad)


def test_a_bos_that_looks_like_padding_stays_real_on_either_side():
    for side in ("left", "right"):
        model = reader(bos_token="<end>", eos_token="<end>", pad_token="<end>", padding_side=side)
        assert model.to_tokens("").tolist() == [[0]]
        torch.testing.assert_close(model(model.to_tokens("")), model(""), **CLOSE)
        prompts = ["", "a b c"]
        torch.testing.assert_close(model(model.to_tokens(prompts)), model(prompts), **CLOSE)
        real = 0 if side == "right" else 3
        torch.testing.assert_close(model(prompts)[0, real], model("")[0, 0], **CLOSE)


def test_a_tokenizer_without_any_special_token():
    model = reader(unk_token="c")
    assert model.tokenizer.bos_token is None
    torch.testing.assert_close(model(["a", "a b c"])[0, 0], model("a")[0, 0], **CLOSE)
    assert model(torch.tensor([1, 2])).shape == (1, 2, 50)


def test_a_tokenizer_that_another_model_uses_is_left_as_it_was():
    shared = tokenizer(eos_token="<end>", padding_side="left")
    left = HookedTransformer(GPT2_LIKE, shared)
    right = HookedTransformer(GPT2_LIKE, shared, default_padding_side="right")
    assert (shared.pad_token, shared.padding_side) == (None, "left")
    assert (left.tokenizer.padding_side, right.tokenizer.padding_side) == ("left", "right")
    with pytest.raises(ValueError, match="'left' or 'right'"):
        HookedTransformer(GPT2_LIKE, shared, default_padding_side="centre")


def test_cfg_is_obeyed_when_it_changes_and_a_tokenizer_can_be_set():
    model = reader(bos_token="<end>", pad_token="<pad>")
    assert model.to_tokens("a").tolist() == [[0, 1]]
    model.cfg.default_prepend_bos = False
    assert model.to_tokens("a").tolist() == [[1]]
    model.tokenizer = tokenizer(bos_token="c")
    assert model.to_tokens("a", prepend_bos=True).tolist() == [[3, 1]]


def test_ids_outside_the_vocabulary_are_not_decoded():
    model = reader(eos_token="<end>")
    for ids in ([-1], [99]):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            model.to_string(ids)


def test_a_half_precision_loss_is_averaged_in_single_precision():
    model = HookedTransformer(GPT2_LIKE | dict(dtype="bf16"))
    tokens = torch.randint(0, 50, (8, 32))
    logits = model(tokens)
    exact = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
    assert model(tokens, return_type="loss") == exact.to(torch.bfloat16)


def test_copies_and_pickles_give_the_same_numbers(model):
    _, cache = model.run_with_cache(TOKENS)
    cache._repr_mimebundle_()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(TOKENS), model(TOKENS))
        assert twin.blocks[0].attn.W_Q.transpose(1, 2).is_contiguous()
    for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        torch.testing.assert_close(twin["pattern", 1], cache["pattern", 1])
    assert cache.get("no such thing") is None
