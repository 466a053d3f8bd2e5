"""Variants of the network where the parity tests say too little: padding, setters, replaced defaults, extra keys."""

from __future__ import annotations

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, SMALL, pair
from tl_widgets import HookedTransformer

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)

ALIBI = GPT2_LIKE | dict(positional_embedding_type="alibi")
SHORTFORMER = GPT2_LIKE | dict(positional_embedding_type="shortformer")
GROUPED = LLAMA_LIKE | dict(n_key_value_heads=2)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_padding_on_the_left_changes_nothing_for_real_tokens_watched_or_not(config):
    _, model = pair(config)
    alone = model(TOKENS[:1, 4:])
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    together = model(TOKENS, attention_mask=mask)
    torch.testing.assert_close(together[:1, 4:], alone, **CLOSE)
    watched, _ = model.run_with_cache(TOKENS, attention_mask=mask)
    torch.testing.assert_close(watched, together, **CLOSE)


@pytest.mark.parametrize("config", [SHORTFORMER, ALIBI, CONFIGS["post-norms"]], ids=["shortformer", "alibi", "norms"])
def test_a_run_that_starts_at_a_later_layer_goes_on_as_before(config):
    _, model = pair(config)
    torch.testing.assert_close(model(model(TOKENS, stop_at_layer=1), start_at_layer=1), model(TOKENS), **CLOSE)


@pytest.mark.parametrize("normalization_type", ["LN", "LNPre"])
def test_post_norms_of_layer_norm_keep_their_weights(normalization_type):
    # The reference cannot build these; what goes into the stream must be normed, then scaled and shifted.
    config = GPT2_LIKE | dict(use_normalization_before_and_after=True, normalization_type=normalization_type)
    model = HookedTransformer(config)
    post = model.blocks[1].ln2_post
    torch.nn.init.normal_(post.w)
    torch.nn.init.normal_(post.b)
    _, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(
        cache["mlp_out", 1], cache["blocks.1.ln2_post.hook_normalized"] * post.w + post.b, **CLOSE
    )
    torch.testing.assert_close(cache["resid_post", 1], cache["resid_mid", 1] + cache["mlp_out", 1], **CLOSE)
    torch.testing.assert_close(model(TOKENS), model.unembed(model.ln_final(cache["resid_post", 1])), **CLOSE)


def test_shortformer_with_inputs_split_by_head_computes_the_same():
    _, model = pair(SHORTFORMER)
    plain = model(TOKENS)
    model.set_use_split_qkv_input(True)
    torch.testing.assert_close(model(TOKENS), plain, **CLOSE)
    model.set_use_split_qkv_input(False)
    model.set_use_attn_in(True)
    torch.testing.assert_close(model(TOKENS), plain, **CLOSE)


@pytest.mark.parametrize(
    "setter, config, points",
    [
        ("set_use_attn_result", GPT2_LIKE, ["attn.hook_result"]),
        ("set_use_split_qkv_input", GROUPED, ["hook_q_input", "hook_k_input", "hook_v_input"]),
        ("set_use_attn_in", GPT2_LIKE, ["hook_attn_in"]),
        ("set_use_hook_mlp_in", GPT2_LIKE, ["hook_mlp_in"]),
        ("set_ungroup_grouped_query_attention", GROUPED, ["attn.hook_k"]),
    ],
)
def test_setters_agree_with_the_oracle(setter, config, points):
    theirs, ours = pair(config)
    plain = ours(TOKENS)
    for value in (True, False):
        getattr(theirs, setter)(value)
        getattr(ours, setter)(value)
        _, their_cache = theirs.run_with_cache(TOKENS)
        logits, cache = ours.run_with_cache(TOKENS)
        assert {name: t.shape for name, t in cache.items()} == {name: t.shape for name, t in their_cache.items()}
        assert all(f"blocks.1.{point}" in cache for point in points) or not value
        torch.testing.assert_close(logits, plain, **CLOSE)


def test_setters_refuse_what_cannot_be():
    with pytest.raises(AssertionError, match="set_use_split_qkv_input"):
        HookedTransformer(GROUPED).set_use_attn_in(True)
    with pytest.raises(AssertionError, match="attention-only"):
        HookedTransformer(SMALL | dict(attn_only=True)).set_use_hook_mlp_in(True)


def test_an_input_for_each_head_is_refused_where_heads_share_keys():
    model = HookedTransformer(GROUPED)
    hook = ("blocks.0.hook_attn_in", lambda x, hook: x)
    with pytest.raises(ValueError, match="set_use_split_qkv_input"):
        model.run_with_hooks(TOKENS, fwd_hooks=[hook])
    assert not model.blocks[0].hook_attn_in.fwd_hooks
    model.set_ungroup_grouped_query_attention(True)
    torch.testing.assert_close(model.run_with_hooks(TOKENS, fwd_hooks=[hook]), model(TOKENS))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_saved_state_dict_of_the_field_loads_whole(config):
    theirs, ours = pair(config)
    fresh = HookedTransformer(config | dict(seed=5))
    fresh.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(fresh(TOKENS), ours(TOKENS))
    with pytest.raises(RuntimeError, match="W_Qq"):
        fresh.load_state_dict(theirs.state_dict() | {"blocks.0.attn.W_Qq": torch.zeros(1)})


def test_the_mask_and_the_ignored_score():
    config = GPT2_LIKE | dict(use_local_attn=True, window_size=3, attn_types=["global", "local"])
    model = HookedTransformer(config)
    _, cache = model.run_with_cache(TOKENS)
    for layer in (0, 1):
        attn = model.blocks[layer].attn
        assert attn.mask.shape == (32, 32) and attn.mask.dtype == torch.bool
        forbidden = cache["attn_scores", layer][0, 0] == attn.IGNORE
        assert torch.equal(~forbidden, attn.mask[:10, :10])
    assert not [name for name, _ in model.named_buffers()]


def test_experts_that_get_no_token_cost_nothing_and_change_nothing():
    _, model = pair(CONFIGS["experts, LayerNorm"])
    ran = []
    for number, expert in enumerate(model.blocks[1].mlp.experts):
        expert.W_in.register_forward_hook(lambda module, args, out, number=number: ran.append(number))
    plain = model(TOKENS)
    assert ran == [0, 1, 3]
    watched, cache = model.run_with_cache(TOKENS)
    assert cache["blocks.1.mlp.experts.2.hook_post"].shape == (0, 64)
    torch.testing.assert_close(watched, plain, **CLOSE)


def test_sinks_take_their_share_of_the_pattern():
    _, model = pair(CONFIGS["attention sinks"])
    _, cache = model.run_with_cache(TOKENS)
    scores, sinks = cache["attn_scores", 0], model.blocks[0].attn.sinks[:, None]
    share = (sinks - torch.logaddexp(scores.logsumexp(-1), sinks)).exp()
    torch.testing.assert_close(1 - cache["pattern", 0].sum(-1), share.expand_as(scores[..., 0]), **CLOSE)
