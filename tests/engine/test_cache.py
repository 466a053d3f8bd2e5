"""`ActivationCache` as a mapping, its shorthand keys, its summary, and its clear errors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import tl_widgets
from tests.engine.oracle import GPT2_LIKE
from tl_widgets import HookedTransformer

TOKENS = torch.arange(6)[None]


@pytest.fixture(scope="module")
def model():
    return HookedTransformer(GPT2_LIKE)


@pytest.fixture
def cache(model):
    return model.run_with_cache(TOKENS)[1]


def test_full_and_short_names_lead_to_the_same(cache):
    assert cache["pattern", 1] is cache["blocks.1.attn.hook_pattern"] is cache["pattern", -1] is cache["attn", 1, "a"]
    assert cache["embed"] is cache["hook_embed"]
    assert cache["scale"] is cache["ln_final.hook_scale"]
    assert cache["scale", 0, "ln2"] is cache["blocks.0.ln2.hook_scale"]
    assert ("pattern", 1) in cache and "blocks.7.hook_resid_pre" not in cache and ("pattern", 9) not in cache
    assert len(cache) == len(list(cache)) == len(cache.keys()) == len(cache.values()) == len(cache.items()) == 40


@pytest.mark.parametrize(
    "key, message",
    [
        (("pattern", 2), "no layer 2.*layers 0 to 1"),
        (("pattern", -3), "no layer -3"),
        (("patern", 0), "hook_pattern"),
        ("hook_embd", "'hook_embed'"),
        ("blocks.0.attn.hook_patern", "blocks.0.attn.hook_pattern"),
        (("result", 0), "did not cache"),
        (("scale", 0), "'ln1' or 'ln2'"),
        (("pattern", "0x"), "whole number"),
        (3, "A key is a name"),
    ],
)
def test_a_miss_is_a_key_error_that_says_what_there_is(cache, key, message):
    with pytest.raises(KeyError, match=message):
        cache[key]


def test_names_filter(model):
    for names_filter in ("hook_embed", ["hook_embed"], lambda name: name == "hook_embed"):
        _, cache = model.run_with_cache(TOKENS, names_filter=names_filter)
        assert list(cache) == ["hook_embed"]
    for misspelt in ("hook_embd", ["hook_embed", "hook_embd"]):
        with pytest.raises(KeyError, match="'hook_embed'"):
            model.run_with_cache(TOKENS, names_filter=misspelt)
    _, cache = model.run_with_cache(TOKENS, names_filter="hook_embed")
    with pytest.raises(KeyError, match="this run did not cache: it has 1"):
        cache["pattern", 0]


def test_batch_dimension(model):
    _, cache = model.run_with_cache(TOKENS, remove_batch_dim=True)
    assert cache["pattern", 0].shape == (4, 6, 6) and not cache.has_batch_dim
    _, two = model.run_with_cache(TOKENS.repeat(2, 1))
    with pytest.raises(ValueError, match="batch of 2"):
        two.remove_batch_dim()
    with pytest.raises(ValueError, match="batch of 2"):
        model.run_with_cache(TOKENS.repeat(2, 1), remove_batch_dim=True)
    assert cache.to("cpu").remove_batch_dim() is cache


def test_summary_tells_model_tokens_number_and_memory(model, cache):
    text = repr(cache)
    assert "custom (2 layers x 4 heads)" in text and "activations  40:" in text
    assert cache.nbytes == sum(t.nbytes for t in cache.values())
    assert f"{cache.nbytes / 1000:.1f} kB" in text
    _, as_dict = model.run_with_cache(TOKENS, return_cache_object=False)
    assert type(as_dict) is dict


def test_a_cache_nobody_holds_is_freed(model):
    _, cache = model.run_with_cache(TOKENS)
    watch = weakref.ref(cache["pattern", 0])
    del cache
    gc.collect()
    assert watch() is None


def test_a_sliced_cache_does_not_keep_the_whole_alive(model):
    _, cache = model.run_with_cache(TOKENS, pos_slice=(0, 1))
    for activation in cache.values():
        assert activation.untyped_storage().nbytes() == activation.nbytes


def test_display_as_text_is_one_option_away(cache, monkeypatch):
    monkeypatch.setattr(tl_widgets.options, "display", "text")
    data, _ = cache._repr_mimebundle_()
    assert data == {"text/plain": repr(cache)}
