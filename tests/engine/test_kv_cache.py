"""The key/value cache: a sequence in parts says what it says as a whole, watched or not, padded or not."""

from __future__ import annotations

import pytest
import torch
import transformer_lens

import tl_widgets
from tests.engine.oracle import CACHED_BY_THE_ORACLE, CAUSAL, CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer, HookedTransformerKeyValueCache

CLOSE = dict(atol=1e-4, rtol=1e-4)
TOKENS = torch.randint(4, 50, (2, 12), generator=torch.Generator().manual_seed(0))
PARTS = (5, 6, 9, 12)  # ends: several tokens, then one, several, several
LOCAL = GPT2_LIKE | dict(use_local_attn=True, window_size=3, attn_types=["global", "local"])
SOME = {
    "gpt2-like": GPT2_LIKE,
    "llama-like grouped": CONFIGS["llama-like grouped"],
    "local attention": LOCAL,
    "local, rotary, grouped": CONFIGS["llama-like grouped"]
    | dict(use_local_attn=True, window_size=3, attn_types=["local", "global"]),
}
some_configs = pytest.mark.parametrize("config", SOME.values(), ids=SOME.keys())


def empty(model, batch: int = 2) -> HookedTransformerKeyValueCache:
    return HookedTransformerKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)


def in_parts(model, tokens, cache, mask=None, run=None):
    """The logits of each part, one after the other."""
    start, logits = 0, []
    for end in PARTS:
        options = {} if mask is None else dict(attention_mask=mask[:, start:end])
        logits.append((run or model)(tokens[:, start:end], past_kv_cache=cache, **options))
        start = end
    return torch.cat(logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL.keys())
def test_parts_say_what_the_whole_says(config):
    _, ours = pair(config)
    torch.testing.assert_close(in_parts(ours, TOKENS, empty(ours)), ours(TOKENS), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("config", CACHED_BY_THE_ORACLE.values(), ids=CACHED_BY_THE_ORACLE.keys())
def test_every_activation_of_a_continuation_is_the_oracles(config):
    theirs, ours = pair(config)
    theirs.tokenizer = fifty_words()  # without one the oracle cannot continue
    their_cache = transformer_lens.TransformerLensKeyValueCache.init_cache(theirs.cfg, "cpu", 2)
    our_cache = empty(ours)
    for start, end in ((0, 5), (5, 6), (6, 9)):
        expected_logits, expected = theirs.run_with_cache(TOKENS[:, start:end], past_kv_cache=their_cache)
        logits, cache = ours.run_with_cache(TOKENS[:, start:end], past_kv_cache=our_cache)
        torch.testing.assert_close(logits, expected_logits, **CLOSE)
        assert cache["pattern", 0].shape == (2, ours.cfg.n_heads, end - start, end)
        assert set(cache) == set(expected.keys())
        for name in cache:
            torch.testing.assert_close(cache[name], expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
@some_configs
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_anywhere_changes_nothing(config, side):
    """Row 0 has four tokens of padding before it, or between its first part and the rest."""
    _, ours = pair(config)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, slice(0, 4) if side == "left" else slice(1, 5)] = 0
    for watched in (False, True):
        run = (lambda *a, **k: ours.run_with_cache(*a, **k)[0]) if watched else ours
        logits = in_parts(ours, TOKENS, cache := empty(ours), mask, run)
        alone = ours(TOKENS[:1, mask[0] == 1])
        torch.testing.assert_close(logits[:1, mask[0] == 1], alone, **CLOSE)
        torch.testing.assert_close(logits[1], ours(TOKENS[1:])[0], **CLOSE)
        assert torch.equal(cache.previous_attention_mask, mask)
        if side == "left":
            whole = run(TOKENS, attention_mask=mask)
            torch.testing.assert_close(logits[mask == 1], whole[mask == 1], **CLOSE)


@torch.no_grad()
def test_padding_of_tokens_and_strings_is_found_on_both_sides():
    _, model = pair(LLAMA_LIKE)
    model.set_tokenizer(fifty_words())
    prompts = ["w05 w06 w07 w08 w09", "w20 w21"]
    for side in ("left", "right"):
        tokens = model.to_tokens(prompts, padding_side=side)
        for batch in (prompts, tokens):
            plain = model(batch, padding_side=side)
            cached = model(batch, padding_side=side, past_kv_cache=empty(model))
            for i, prompt in enumerate(prompts):
                alone = model(prompt)[0]
                place = slice(-len(alone), None) if side == "left" else slice(len(alone))
                torch.testing.assert_close(plain[i, place], alone, **CLOSE)
                torch.testing.assert_close(cached[i, place], alone, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2-like", "llama-like"])
def test_a_frozen_cache_serves_many_continuations(config):
    _, ours = pair(config)
    cache = empty(ours, 1)
    beginning = TOKENS[:1, :5]
    ours(beginning, past_kv_cache=cache)
    cache.freeze()
    for rest in (TOKENS[:1, 5:9], TOKENS[1:, 3:10], TOKENS[:1, 5:6]):
        whole = ours(torch.cat([beginning, rest], dim=1))
        torch.testing.assert_close(ours(rest, past_kv_cache=cache), whole[:, 5:], **CLOSE)
        assert cache.previous_attention_mask.shape == (1, 5)
        assert cache[0].past_keys.shape[1] == 5
    # Several at once, after one beginning.
    whole = ours(torch.cat([beginning.expand(2, -1), TOKENS[:, 5:9]], dim=1))
    torch.testing.assert_close(ours(TOKENS[:, 5:9], past_kv_cache=cache), whole[:, 5:], **CLOSE)
    cache.unfreeze()
    ours(TOKENS[:1, 5:9], past_kv_cache=cache)
    assert cache[1].past_values.shape[1] == cache.previous_attention_mask.shape[1] == 9


@torch.no_grad()
def test_memory_grows_by_doubling_and_the_past_stays_where_it_is():
    _, ours = pair(GPT2_LIKE)
    cache = empty(ours)
    ours(TOKENS[:, :4], past_kv_cache=cache)
    before, places = cache[0].past_keys.clone(), set()
    for i in range(4, 12):
        ours(TOKENS[:, i : i + 1], past_kv_cache=cache)
        places.add(cache[0].past_keys.data_ptr())
    assert len(places) == 2  # room for 8, then for 18
    assert torch.equal(cache[0].past_keys[:, :4], before)


def test_gradients_flow_through_the_past():
    _, ours = pair(GPT2_LIKE)

    def gradient(loss):
        ours.zero_grad()
        loss.backward()
        return ours.blocks[0].attn.W_K.grad.clone()

    expected = gradient(ours(TOKENS)[:, 6:].pow(2).sum())
    cache = empty(ours)
    ours(TOKENS[:, :6], past_kv_cache=cache)
    torch.testing.assert_close(gradient(ours(TOKENS[:, 6:], past_kv_cache=cache).pow(2).sum()), expected, **CLOSE)


def test_what_was_made_under_inference_mode_goes_on_outside():
    _, ours = pair(LLAMA_LIKE)
    cache = empty(ours)
    with torch.inference_mode():
        ours(TOKENS[:, :6], past_kv_cache=cache)
    with torch.no_grad():
        logits = ours(TOKENS[:, 6:], past_kv_cache=cache)
    torch.testing.assert_close(logits, ours(TOKENS)[:, 6:], **CLOSE)
    cache = empty(ours)
    with torch.inference_mode():
        ours(TOKENS[:, :6], past_kv_cache=cache)
    torch.testing.assert_close(ours(TOKENS[:, 6:], past_kv_cache=cache), logits, **CLOSE)


@torch.no_grad()
@some_configs
def test_from_an_embedding_onwards(config):
    _, ours = pair(config)
    ours.set_tokenizer(fifty_words())
    prompts = ["w05 w06 w07 w08 w09", "w20 w21"]
    for side in ("left", "right"):
        residual, tokens, none, mask = ours.input_to_embed(prompts, padding_side=side)
        assert none is None
        logits, loss = ours(prompts, padding_side=side, return_type="both")
        for options in (dict(attention_mask=mask), dict(padding_side=side)):
            again = ours(residual, start_at_layer=0, tokens=tokens, return_type="both", **options)
            torch.testing.assert_close(again.logits[mask == 1], logits[mask == 1])
            torch.testing.assert_close(again.loss, loss)
        torch.testing.assert_close(ours.loss_fn(logits, tokens, mask), loss)
    cache = empty(ours)
    whole = ours(TOKENS)
    ours(TOKENS[:, :5], past_kv_cache=cache)
    assert ours.get_pos_offset(cache, 2) == 5 and ours.get_pos_offset(None, 2) == 0
    embed = ours.hook_embed(ours.embed(TOKENS[:, 5:]))
    residual, _ = ours.get_residual(embed, 5)
    assert torch.equal(residual, ours.get_residual(embed, 5, return_shortformer_pos_embed=False))
    torch.testing.assert_close(residual, ours.input_to_embed(TOKENS[:, 5:], past_kv_cache=cache)[0])
    assert cache.previous_attention_mask.shape[1] == 5
    torch.testing.assert_close(ours(residual, start_at_layer=0, past_kv_cache=cache), whole[:, 5:], **CLOSE)


@torch.no_grad()
def test_the_fields_names_and_entries():
    assert tl_widgets.TransformerLensKeyValueCache is HookedTransformerKeyValueCache
    _, ours = pair(GPT2_LIKE)
    cache = empty(ours, 1)
    assert len(cache.entries) == 2 and cache[0] is cache.entries[0] and not cache.frozen
    assert cache[0].past_keys.shape == (1, 0, 4, 4)
    ours(TOKENS[:1, :5], past_kv_cache=cache)
    again = tl_widgets.HookedTransformerKeyValueCache(
        [tl_widgets.HookedTransformerKeyValueCacheEntry(e.past_keys, e.past_values) for e in cache.entries],
        cache.previous_attention_mask,
        frozen=True,
    )
    assert again.frozen and again[1].frozen
    torch.testing.assert_close(ours(TOKENS[:1, 5:], past_kv_cache=again), ours(TOKENS[:1])[:, 5:], **CLOSE)


@torch.no_grad()
def test_errors_say_what_is_wrong():
    model = HookedTransformer(GPT2_LIKE)
    cache = empty(model)
    model(TOKENS, past_kv_cache=cache)
    with pytest.raises(ValueError, match="holds 2 sequences, but 3"):
        model(TOKENS[:1].expand(3, -1), past_kv_cache=cache)
    with pytest.raises(ValueError, match="12 tokens in the cache and 30 new ones are more than this model's 32"):
        model(TOKENS[:, :1].expand(-1, 30), past_kv_cache=cache)
    cache = empty(model)
    model(TOKENS, past_kv_cache=cache, stop_at_layer=1)
    with pytest.raises(ValueError, match=r"Layer 1 .* holds 0 positions.*as a whole 12"):
        model(TOKENS, past_kv_cache=cache)


def test_a_bidirectional_model_has_nothing_to_continue():
    _, ours = pair(GPT2_LIKE | dict(attention_dir="bidirectional"))
    with pytest.raises(ValueError, match="causal"):
        ours(TOKENS, past_kv_cache=empty(ours))
