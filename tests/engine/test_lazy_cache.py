"""A lazy cache gives what a full one holds, in a small part of its memory, or says why it cannot."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tests.engine.oracle import CAUSAL, CONFIGS, GPT2_LIKE, LLAMA_LIKE
from tl_widgets import HookedTransformer, HookedTransformerKeyValueCache
from tl_widgets.cache import LazyActivationCache
from tl_widgets.errors import StaleCache

TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])


def build(config=GPT2_LIKE):
    torch.manual_seed(3)
    model = HookedTransformer(dict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def model():
    return build()


def both(model, *args, **kwargs):
    """The same run twice: the full cache and the lazy one."""
    output, full = model.run_with_cache(*args, **kwargs)
    output_again, lazy = model.run_with_cache(*args, lazy=True, **kwargs)
    if output is not None:
        torch.testing.assert_close(output_again, output, atol=1e-5 * float(output.detach().abs().max()), rtol=0)
    assert isinstance(lazy, LazyActivationCache) and not isinstance(full, LazyActivationCache)
    return full, lazy


def assert_same(full, lazy):
    assert set(full) == set(lazy) and len(full) == len(lazy)
    for name in full:
        expected, got = full[name], lazy[name]
        assert expected.shape == got.shape and expected.dtype == got.dtype, name
        finite = expected.isfinite()
        assert torch.equal(finite, got.isfinite()), name
        scale = float(expected[finite].abs().max()) if finite.any() else 0.0
        torch.testing.assert_close(got, expected, atol=1e-5 * scale, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_gives_what_a_full_cache_holds(name):
    model = build(CONFIGS[name])
    assert_same(*both(model, TOKENS))
    assert_same(*both(model, TOKENS, attention_mask=PADDED))


@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE | dict(n_key_value_heads=2)], ids=["gpt2", "llama grouped"])
@pytest.mark.parametrize(
    "options",
    [
        dict(pos_slice=-1),
        dict(pos_slice=(2, 5)),
        dict(pos_slice=[0, 3]),
        dict(stop_at_layer=1),
        dict(stop_at_layer=0),
        dict(stop_at_layer=2),
        dict(return_type=None),
        dict(return_type="loss"),
        dict(device="cpu"),
    ],
    ids=str,
)
def test_under_every_option(config, options):
    model = build(config)
    assert_same(*both(model, TOKENS, **options))


def test_batch_dimension_device_and_slices_of_the_batch(model):
    assert_same(*both(model, TOKENS[:1], remove_batch_dim=True))
    full, lazy = both(model, TOKENS[:1])
    assert lazy.remove_batch_dim() is lazy and not lazy.has_batch_dim
    assert_same(full.remove_batch_dim(), lazy)
    full, lazy = both(model, TOKENS)
    with pytest.raises(ValueError, match="batch of 2"):
        lazy.remove_batch_dim()
    with pytest.raises(ValueError, match="batch of 2"):
        model.run_with_cache(TOKENS, lazy=True, remove_batch_dim=True)
    assert_same(full.to("cpu"), lazy.to("cpu"))


def test_from_a_residual_stream_and_after_a_past(model):
    residual = torch.randn(2, 9, model.cfg.d_model)
    assert_same(*both(model, residual, start_at_layer=1))
    assert_same(*both(model, residual, start_at_layer=1, tokens=TOKENS, return_type="loss"))
    assert_same(*both(model, residual, start_at_layer=-1, attention_mask=PADDED))
    assert_same(*both(model, residual, start_at_layer=2))


@pytest.mark.parametrize("name", ["gpt2-like", "llama-like grouped", "alibi", "shortformer", "local attention"])
def test_after_a_past_that_goes_on_growing(name):
    model = build(CAUSAL[name])
    caches = []
    for lazy in (False, True):
        past = HookedTransformerKeyValueCache.init_cache(model.cfg, "cpu", 2)
        model(TOKENS[:, :4], past_kv_cache=past)
        caches.append(model.run_with_cache(TOKENS[:, 4:7], past_kv_cache=past, lazy=lazy)[1])
        model(TOKENS[:, 7:], past_kv_cache=past)  # later additions change nothing
    assert_same(*caches)


def test_points_with_hooks_are_kept_as_they_came_out_and_go_in_again(model):
    calls = []

    def noise(activation, hook):
        calls.append(hook.name)
        return activation + torch.randn_like(activation)  # never the same twice

    names = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_result", "blocks.1.hook_resid_pre", "hook_pos_embed"]
    with model.hooks([(name, noise) for name in names]):
        _, lazy = model.run_with_cache(TOKENS, lazy=True)
        assert len(calls) == len(names)
        pattern, resid_pre = lazy["pattern", 0], lazy["resid_pre", 1]
        assert torch.equal(pattern, lazy["pattern", 0]) and len(calls) == len(names)
    # What follows from them agrees, the hooks being gone or not.
    v, z = lazy["v", 0], lazy["z", 0]
    torch.testing.assert_close(z, torch.einsum("bhqk,bkhd->bqhd", pattern, v))
    assert not torch.allclose(lazy["resid_post", 0], resid_pre)  # a hook stands between the two
    torch.testing.assert_close(lazy["resid_post", 0], lazy["resid_mid", 0] + lazy["mlp_out", 0])
    result = lazy.cache_dict["blocks.1.attn.hook_result"]
    torch.testing.assert_close(lazy["attn_out", 1], result.sum(2) + model.blocks[1].attn.b_O)
    torch.testing.assert_close(lazy["resid_pre", 0], lazy["embed"] + lazy["pos_embed"])
    assert len(calls) == len(names)


def test_hooks_of_today_see_nothing_of_the_recomputing_and_stay(model):
    full, lazy = both(model, TOKENS)
    seen = []
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: seen.append(1) or z * 0)
    model.add_perma_hook("blocks.0.attn.hook_q", lambda q, hook: seen.append(1) or q * 0)
    assert_same(full, lazy)
    assert not seen
    model(TOKENS)
    assert len(seen) == 2
    # A hook may read from the cache while the model runs: the usual way to patch.
    model.reset_hooks(including_permanent=True)
    patched = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: lazy[hook.name])])
    torch.testing.assert_close(patched, model(TOKENS))


def test_modules_of_others_run_again(model):
    class Doubled(nn.Module):
        def forward(self, x):
            return x.mul_(2)  # in place, too

    model.blocks[0].mlp = Doubled()
    model.blocks[1].hook_attn_out = Doubled()
    model.setup()
    assert_same(*both(model, TOKENS))


def change_by(edit):
    def change(model):
        with torch.no_grad():
            edit(model)

    return change


EDITS = {
    "in place": lambda model: model.blocks[1].attn.W_Q.mul_(2),
    "through data": lambda model: model.blocks[1].attn.W_Q.data.mul_(2),
    "one head through data": lambda model: model.blocks[1].attn.W_O.data[2].zero_(),
    "through numpy": lambda model: model.blocks[1].attn.b_K.numpy().__iadd__(5),
    "two heads swapped": lambda model: model.blocks[1].attn.W_Q.copy_(model.blocks[1].attn.W_Q[[1, 0, 2, 3]]),
    "a new parameter": lambda model: setattr(model.blocks[1].attn, "W_Q", nn.Parameter(model.blocks[1].attn.W_Q * 2)),
    "new data": lambda model: setattr(model.blocks[1].attn.W_Q, "data", model.blocks[1].attn.W_Q.data * 2),
    "a new module": lambda model: setattr(model.blocks[1], "mlp", nn.Identity()),
    "the dtype": lambda model: model.to(torch.float64),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("key", [("pattern", 1), ("k", 1), ("mlp_out", 1), ("result", 1)], ids=str)
def test_a_change_of_weights_is_an_error(edit, key, dtype):
    if dtype == torch.bfloat16 and edit == "through numpy":
        dtype = torch.float64  # NumPy knows no bfloat16
    model = build().to(dtype) if edit != "the dtype" else build()
    with torch.no_grad():
        _, lazy = model.run_with_cache(TOKENS, lazy=True)
        EDITS[edit](model)
    if edit != "the dtype":
        assert lazy["z", 0] is not None  # the other layer is as it was
    with pytest.raises(StaleCache, match="changed since"):
        lazy[key]
    assert lazy["resid_pre", 1].dtype is not None  # what is kept stays


def test_a_change_of_embedding_tables_and_unembedding_is_an_error():
    model = build(CONFIGS["alibi, embedding norm"])
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    model.unembed.W_U.data[0, 0] += 1
    with pytest.raises(StaleCache, match="the final part"):
        lazy["unembed.hook_out"]
    model.embed.W_E.data[TOKENS[0, 3]] += 1
    with pytest.raises(StaleCache, match="the embed part"):
        lazy["embed.ln.hook_scale"]
    model = build(LLAMA_LIKE)
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    model.rotary.cos.zero_()
    with pytest.raises(StaleCache):
        lazy["pattern", 1]


def test_under_inference_mode_too():
    with torch.inference_mode():
        model = build()
        _, lazy = model.run_with_cache(TOKENS, lazy=True)
        model.blocks[1].attn.W_Q.mul_(3)
        with pytest.raises(StaleCache):
            lazy["pattern", 1]


def test_equal_weights_are_the_same_weights(model):
    full, lazy = both(model, TOKENS)
    model.load_state_dict(model.state_dict())
    assert_same(full, lazy)


LATER = {
    "a flag": lambda model: model.set_use_attn_result(True),
    "split inputs": lambda model: model.set_use_split_qkv_input(True),
    "a setting": lambda model: setattr(model.cfg, "attn_scale", 1.0),
    "the default of BOS": lambda model: setattr(model.cfg, "default_prepend_bos", False),
    "ungrouping": lambda model: model.set_ungroup_grouped_query_attention(True),
    "another eps": lambda model: setattr(model.blocks[1].ln1, "eps", 5.0),
    "a hook of torch's": lambda model: model.blocks[1].ln1.register_forward_hook(lambda module, i, o: o * 3),
    "a module without weights": lambda model: setattr(model.blocks[1].attn, "hook_q", _Tripled()),
    "a hook": lambda model: model.add_perma_hook("blocks.1.attn.hook_q", lambda q, hook: q * 3),
}


class _Tripled(nn.Module):
    def forward(self, x):
        return 3 * x


@pytest.mark.parametrize("change", LATER)
def test_what_comes_later_does_not_count(change):
    model = build(LLAMA_LIKE | dict(n_key_value_heads=2))
    full, lazy = both(model, TOKENS)
    LATER[change](model)
    model.setup()
    assert_same(full, lazy)
    with torch.autocast("cpu", torch.bfloat16):
        assert lazy["q", 1].dtype is torch.float32


def test_the_caller_may_fill_his_tensors_anew(model):
    mask, tokens = PADDED.clone(), TOKENS.clone()
    full, lazy = both(model, tokens, attention_mask=mask)
    mask.fill_(1)
    tokens.zero_()
    assert_same(full, lazy)
    assert torch.equal(full.mask, PADDED) and torch.equal(lazy.mask, PADDED)


def test_what_is_read_may_be_edited(model):
    full, lazy = both(model, TOKENS)
    lazy["resid_pre", 1].zero_()
    lazy["embed"].numpy()[:] = 0
    assert_same(full, lazy)


def test_a_past_that_is_edited_later_does_not_count(model):
    past = HookedTransformerKeyValueCache.init_cache(model.cfg, "cpu", 2)
    model(TOKENS[:, :4], past_kv_cache=past)
    past.freeze()
    full, lazy = both(model, TOKENS[:, 4:], past_kv_cache=past)
    assert lazy.nbytes > past.nbytes
    with torch.no_grad():
        past[0].past_keys.zero_()
    assert_same(full, lazy)


@pytest.mark.parametrize("groups", [None, 2])
def test_points_that_are_passed_several_times(groups):
    model = build(LLAMA_LIKE | dict(n_key_value_heads=groups, use_split_qkv_input=True))
    hooks = [
        ("blocks.1.hook_q_input", lambda x, hook: x.tanh()),
        ("blocks.1.ln1.hook_scale", lambda x, hook: None),
        ("blocks.0.ln1.hook_normalized", lambda x, hook: None),
    ]
    with model.hooks(hooks):
        full, lazy = both(model, TOKENS)
    assert_same(full, lazy)


def test_a_hook_that_appears_during_the_run_is_an_error(model):
    def add_another(x, hook):
        model.add_hook("blocks.1.attn.hook_q", lambda q, hook: q * 3)

    with model.hooks([("blocks.0.hook_resid_pre", add_another)]):
        _, lazy = model.run_with_cache(TOKENS, lazy=True)
    assert lazy["z", 0] is not None
    with pytest.raises(StaleCache, match="came or went"):
        lazy["pattern", 1]


def test_readers_in_several_threads_do_not_disturb_each_other_or_the_model(model):
    full, lazy = both(model, TOKENS)
    lazy.budget = 0
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: z * 0)
    hooked = model(TOKENS)

    def read(name):
        return all(torch.equal(lazy[name], lazy[name]) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(read, name) for name in full]
        for _ in range(30):
            assert torch.equal(model(TOKENS), hooked)
        assert all(each.result() for each in reading)
    assert [name for name, point in model.hook_dict.items() if point.has_hooks()] == ["blocks.0.attn.hook_z"]


def test_copies_and_pickles_go_on(model):
    full, lazy = both(model, TOKENS)
    assert_same(full, copy.deepcopy(lazy))
    assert_same(full, pickle.loads(pickle.dumps(lazy)))


def test_assigning_and_deleting(model):
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    lazy.cache_dict["blocks.0.attn.hook_z"] = torch.zeros(1)
    assert lazy["z", 0].shape == (1,)
    del lazy.cache_dict["blocks.0.attn.hook_q"]
    with pytest.raises(KeyError):
        lazy["q", 0]
    assert len(lazy) == len(list(lazy))


def test_going_through_all_runs_each_block_once(model, monkeypatch):
    full, lazy = both(model, TOKENS)
    lazy.budget = 0
    runs = []
    run = lazy.cache_dict.rerun.run
    monkeypatch.setattr(
        lazy.cache_dict.rerun, "run", lambda stretch, *given: runs.append(stretch) or run(stretch, *given)
    )
    found = dict(lazy.items())
    assert list(found) == list(lazy) and len(list(lazy.values())) == len(lazy)
    for name, activation in found.items():
        torch.testing.assert_close(activation, full[name])
    alone = 2 * 2 * 2  # scores and patterns, in two layers, twice gone through
    assert len(runs) == alone + 2 * (2 + 1)  # two blocks and what comes after them


def test_optional_points_can_be_read_without_having_been_asked_for(model):
    _, full = model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith("hook_result"))
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    assert ("result", 1) not in lazy
    torch.testing.assert_close(lazy["result", 1], full["result", 1])
    assert lazy["scale", 1, "ln1"].shape == (2, 9, 1)
    assert lazy["q_input", 1].shape == (2, 9, 4, 16)
    assert lazy["scale", 1, "ln1"].shape == (2, 9, 1)


@pytest.mark.parametrize(
    "key, message",
    [
        (("patern", 0), "Did you mean"),
        (("pattern", 2), "no layer 2"),
        ("hook_embd", "'hook_embed'"),
    ],
)
def test_a_miss_is_the_same_error(model, key, message):
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    with pytest.raises(KeyError, match=message):
        lazy[key]
    _, part = model.run_with_cache(TOKENS, lazy=True, stop_at_layer=1)
    with pytest.raises(KeyError, match="did not cache"):
        part["pattern", 1]


def test_memory_and_budget(model):
    full, lazy = both(model, TOKENS)
    kept = lazy.nbytes
    assert kept < full.nbytes / 4
    assert (
        kept
        == sum(
            full[name].nbytes
            for name in ("hook_embed", "hook_pos_embed", *(f"blocks.{layer}.hook_resid_pre" for layer in (0, 1)))
        )
        + full["resid_post", -1].nbytes
    )
    pattern = lazy["pattern", 0]
    assert lazy["pattern", 0] is pattern and lazy.nbytes == kept + pattern.nbytes
    lazy.budget = 0
    assert lazy.nbytes == kept
    with pytest.raises(ValueError, match="number of bytes"):
        lazy.budget = "much"
    lazy.budget = 3 * pattern.nbytes
    for name in full:
        lazy[name]
        assert lazy.nbytes <= kept + max(lazy.budget, lazy[name].nbytes)
    assert lazy["pattern", 0] is not pattern  # it had to go
    assert "ActivationCache of custom" in repr(lazy)


def test_it_keeps_to_the_full_kind_where_lazy_makes_no_sense(model):
    _, cache = model.run_with_cache(TOKENS, lazy=True, names_filter="hook_embed")
    assert list(cache) == ["hook_embed"] and not isinstance(cache, LazyActivationCache)
    _, cache = model.run_with_cache(TOKENS, lazy=True, incl_bwd=True, return_type="loss")
    assert "hook_embed_grad" in cache and not isinstance(cache, LazyActivationCache)
    _, cache = model.run_with_cache(TOKENS, lazy=True, return_cache_object=False)
    assert type(cache) is dict
    _, cache = model.run_with_cache(TOKENS, lazy=True, names_filter=None, incl_bwd=False)
    assert isinstance(cache, LazyActivationCache)


def test_an_error_in_the_middle_leaves_no_hook_behind(model):
    calls = []
    model.blocks[0].ln2.register_forward_hook(lambda module, x, y: calls.append(1) or (1 / 0 if len(calls) == 2 else y))
    _, lazy = model.run_with_cache(TOKENS, lazy=True)
    model.add_perma_hook("blocks.0.attn.hook_q", lambda q, hook: None)
    with pytest.raises(ZeroDivisionError):
        lazy["q", 0]
    assert lazy["z", 0].shape == (2, 9, 4, 4)  # and nothing is in the way of the next
    assert [name for name, point in model.hook_dict.items() if point.has_hooks()] == ["blocks.0.attn.hook_q"]


def test_half_precision_inference_mode_and_autocast():
    model = build(LLAMA_LIKE).to(torch.bfloat16)
    full, lazy = (model.run_with_cache(TOKENS, lazy=lazy)[1] for lazy in (False, True))
    for name in full:
        assert full[name].dtype == lazy[name].dtype
    torch.testing.assert_close(lazy["z", 1], full["z", 1], atol=0.05 * float(full["z", 1].abs().max()), rtol=0)
    model = build()
    with torch.inference_mode():
        full, lazy = both(model, TOKENS)
    assert_same(full, lazy)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        _, lazy = model.run_with_cache(TOKENS, lazy=True)
    assert lazy["q", 1].dtype is torch.bfloat16  # as in the run, though autocast is over
