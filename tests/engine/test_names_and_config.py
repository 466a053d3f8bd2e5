"""Shorthand names and configs, against the oracle."""

from __future__ import annotations

import pytest
import torch
import transformer_lens
import transformer_lens.utils

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tl_widgets import HookedTransformer, HookedTransformerConfig
from tl_widgets.utils import get_act_name

SHORTHAND = [
    ("k", 6, "a"), ("pre", 2), ("embed",), ("normalized", 27, "ln2"), ("k6",), ("scale4ln1",), ("pre5",),
    ("resid_pre", 3), ("pattern", 2), ("attn_scores", 1), ("attn", 2), ("attn_logits", 1), ("result", 0),
    ("mlp_out", 4), ("post", 1), ("z", 0), ("q", 0, "attn"), ("resid_mid", 1), ("resid_post", 0), ("key", 0),
    ("query", 0), ("value", 0), ("mlp_pre", 1), ("mlp_mid", 1), ("mlp_post", 1), ("scale",), ("normalized",),
    ("hook_embed",), ("blocks.0.hook_resid_pre",), ("pos_embed",), ("rot_q", 0), ("mlp_in", 2), ("attn_in", 1),
    ("q_input", 1), ("attn_out", 3),
]  # fmt: skip


@pytest.mark.parametrize("key", SHORTHAND, ids=str)
def test_shorthand(key):
    assert get_act_name(*key) == transformer_lens.utils.get_act_name(*key)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_a_config_fills_in(config):
    theirs = transformer_lens.HookedTransformerConfig(**config)
    ours = HookedTransformerConfig(**config)
    for field, value in theirs.to_dict().items():
        assert getattr(ours, field) == value, field


def test_the_fields_are_the_fields():
    theirs = set(transformer_lens.HookedTransformerConfig.__dataclass_fields__)
    assert set(HookedTransformerConfig.__dataclass_fields__) == theirs


def test_state_dict_keys_and_shapes_are_the_fields():
    for config in (GPT2_LIKE, LLAMA_LIKE | dict(n_key_value_heads=2)):
        theirs = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**config))
        ours = HookedTransformer(config)
        assert {name: p.shape for name, p in ours.named_parameters()} == {
            n: p.shape for n, p in theirs.named_parameters()
        }
        assert set(ours.state_dict()) == {name for name, _ in ours.named_parameters()}


@pytest.mark.parametrize(
    "mistake, message",
    [
        (dict(act_fn="gelo"), "gelu"),
        (dict(act_fn=None), "act_fn must be given"),
        (dict(normalization_type="RMSNorm"), "RMS"),
        (dict(positional_embedding_type="rope"), "rotary"),
        (dict(n_key_value_heads=3), "multiple"),
        (dict(use_local_attn=True), "window_size"),
        (dict(use_logn_attn=True), "beyond train_seq_length"),
        (dict(use_dynamic_ntk_rope=True, train_seq_length=31), "set n_ctx"),
        (dict(load_in_4bit=True), "dtype='bf16'"),
        (dict(act_fn="solu_ln", gated_mlp=True), "solu_ln"),
        (dict(num_experts=4), "experts_per_token"),
        (dict(num_experts=4, experts_per_token=5), "between 1 and 4"),
        (dict(dtype="bfloat61"), "bfloat16"),
        (dict(n_head=4), "n_heads"),
    ],
)
def test_mistakes_name_what_is_allowed(mistake, message):
    with pytest.raises(ValueError, match=message):
        HookedTransformerConfig.from_dict(GPT2_LIKE | mistake)


@pytest.mark.parametrize("flag", ["use_logn_attn", "use_dynamic_ntk_rope"])
def test_what_acts_beyond_the_context_of_training_changes_nothing_within_it(flag):
    config = GPT2_LIKE | {flag: True, "train_seq_length": 32}
    theirs, ours = pair(config)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(tokens), pair(GPT2_LIKE)[1](tokens))


def test_a_name_in_place_of_a_config_points_to_from_pretrained():
    with pytest.raises(TypeError, match="from_pretrained"):
        HookedTransformer("gpt2")
    with pytest.raises(ValueError, match="d_vocab"):
        HookedTransformer({**GPT2_LIKE, "d_vocab": -1})


def test_a_seed_makes_weights_repeatable():
    one, two = HookedTransformer(GPT2_LIKE), HookedTransformer(GPT2_LIKE)
    torch.testing.assert_close(one.blocks[1].mlp.W_in, two.blocks[1].mlp.W_in)
    assert one.blocks[1].mlp.W_in.std().item() == pytest.approx(one.cfg.initializer_range, rel=0.1)
