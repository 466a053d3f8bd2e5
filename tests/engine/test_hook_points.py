"""Every hook point fires once a pass, with the field's name, shape and order; optional ones when asked for."""

from __future__ import annotations

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tl_widgets import HookedTransformer

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
BATCH_POS = [2, 10]
# Of a model with d_model=16, n_heads=4, d_head=4, d_mlp=64, d_vocab=50.
OPTIONAL = {
    "hook_tokens": ("use_hook_tokens", BATCH_POS),
    "blocks.1.hook_attn_in": ("use_attn_in", [*BATCH_POS, 4, 16]),
    "blocks.1.hook_q_input": ("use_split_qkv_input", [*BATCH_POS, 4, 16]),
    "blocks.1.hook_k_input": ("use_split_qkv_input", [*BATCH_POS, 4, 16]),
    "blocks.1.hook_v_input": ("use_split_qkv_input", [*BATCH_POS, 4, 16]),
    "blocks.1.hook_mlp_in": ("use_hook_mlp_in", [*BATCH_POS, 16]),
    "blocks.1.attn.hook_result": ("use_attn_result", [*BATCH_POS, 4, 16]),
}


def firings(model):
    """(name, shape) of all that passes a hook point in one pass, in order."""
    fired = []
    with model.hooks(fwd_hooks=[(lambda name: True, lambda x, hook: fired.append((hook.name, list(x.shape))))]):
        model(TOKENS)
    return fired


def without_repeats(fired):
    return list({name: (name, shape) for name, shape in fired}.values())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_point_fires_once_with_the_fields_name_shape_and_order(config):
    theirs, ours = pair(config)
    fired = firings(ours)
    # The reference passes ln1 three times, for queries, keys and values; here only where their inputs are split.
    by_input = [name for name, _ in fired if config.get("use_split_qkv_input") and ".ln1." in name]
    assert all(by_input.count(name) == 3 for name in by_input)
    once = [name for name, _ in fired if name not in by_input]
    assert len(once) == len(set(once))
    assert without_repeats(fired) == without_repeats(firings(theirs))


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2-like", "llama-like"])
def test_an_optional_point_fires_when_asked_for_and_only_then(name, config):
    flag, shape = OPTIONAL[name]
    _, model = pair(config)
    plain = model(TOKENS)
    assert name not in model.run_with_cache(TOKENS)[1]
    fired = []

    def see(x, hook):
        fired.append((hook.name, list(x.shape)))

    def ask_by(way):
        fired.clear()
        way()
        assert fired == [(name, shape)]
        fired.clear()
        model(TOKENS)

    def by_add_hook(**how):
        model.add_hook(name, see, **how)
        model(TOKENS)
        model.reset_hooks(including_permanent=True)

    ask_by(lambda: model.run_with_hooks(TOKENS, fwd_hooks=[(name, see)]))
    ask_by(lambda: model.run_with_hooks(TOKENS, fwd_hooks=[(lambda each: each == name, see)]))
    ask_by(by_add_hook)
    ask_by(lambda: by_add_hook(is_permanent=True))
    ask_by(lambda: fired.extend((key, list(x.shape)) for key, x in cached(model, name)))
    ask_by(lambda: fired.extend((key, list(x.shape)) for key, x in cached(model, [name])))
    ask_by(lambda: fired.extend((key, list(x.shape)) for key, x in cached(model, lambda each: each == name)))
    assert fired == []  # nobody asked
    setattr(model.cfg, flag, True)
    assert (name, shape) in firings(model)
    setattr(model.cfg, flag, False)
    assert name not in dict(firings(model))
    torch.testing.assert_close(model(TOKENS), plain)


def cached(model, names_filter):
    return model.run_with_cache(TOKENS, names_filter=names_filter)[1].items()


def test_gradients_fire_once_too_from_the_last_point_to_the_first():
    model = HookedTransformer(GPT2_LIKE)
    fired = []
    with model.hooks(bwd_hooks=[(lambda name: True, lambda grad, hook: fired.append(hook.name))]):
        model(TOKENS, return_type="loss").backward()
    forward = [name for name, _ in firings(model)]
    assert sorted(fired) == sorted(forward)
    stream = [name for name in forward if "resid" in name]
    assert [name for name in fired if "resid" in name] == stream[::-1]
