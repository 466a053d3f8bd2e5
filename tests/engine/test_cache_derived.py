"""What is derived from a cache: its errors, slices of the batch, partial and lazy caches."""

from __future__ import annotations

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, pair
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets.cache import ActivationCache
from tl_widgets.math import Slice

TOKENS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)
FOLDED = GPT2_LIKE | dict(normalization_type="LNPre")


@pytest.fixture(scope="module")
def model():
    return HookedTransformer(FOLDED, fifty_words())


@pytest.fixture
def cache(model):
    return model.run_with_cache(TOKENS)[1]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda c: c.decompose_resid(mode="mpl"), ValueError, "Did you mean 'mlp'"),
        (lambda c: c.decompose_resid(3), KeyError, "no layer 3.*0 to 1, and 2, -1 or None"),
        (lambda c: c.accumulated_resid(-2), KeyError, "no layer -2"),
        (lambda c: c.accumulated_resid("1"), TypeError, "whole number"),
        (lambda c: c.decompose_resid(mlp_input=True), KeyError, "say which, layer=0 to 1"),
        (lambda c: c.decompose_resid(0, incl_embeds=False), ValueError, "no component"),
        (lambda c: c.stack_activation("z", 0), ValueError, "no layer before layer 0"),
        (lambda c: c.stack_activation("zz"), KeyError, "hook_z"),
        (lambda c: c.get_neuron_results(2), KeyError, "no layer 2"),
        (lambda c: c.get_neuron_results(0, [64]), IndexError, "0 to 63"),
        (lambda c: c.get_neuron_results(0, project_output_onto=torch.ones(3)), ValueError, "d_model=16, not .3."),
        (lambda c: c.stack_head_results(pos_slice=9), ValueError, "outside axis"),
        (lambda c: c.apply_ln_to_stack(c.decompose_resid(), pos_slice=2), ValueError, "Slice positions"),
        (lambda c: c.apply_ln_to_stack(c.decompose_resid()[:, 0], has_batch_dim=False), ValueError, "batch_slice"),
        (lambda c: c.logit_attrs(c.decompose_resid(), [1, 2, 3]), ValueError, r"tokens are \[3\].*\[2, 6\]"),
        (lambda c: c.logit_attrs(c.decompose_resid(), [1, 2], 3), ValueError, r"one shape, not \[2\] and \[\]"),
        (lambda c: c.logit_attrs(c.decompose_resid(), 50), ValueError, "0 to 49"),
        (lambda c: c.remove_batch_dim(), ValueError, "batch of 2"),
        (lambda c: c.apply_slice_to_batch_dim(0).apply_slice_to_batch_dim(0), ValueError, "no batch dimension"),
    ],
)
def test_errors_say_what_is_allowed(cache, call, error, message):
    with pytest.raises(error, match=message):
        call(cache)


def test_a_partial_cache_says_all_that_is_missing_before_any_work(model):
    _, partial = model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith(("hook_z", "hook_embed")))
    with pytest.raises(KeyError, match=r"hook_pos_embed.*and 2 more.*\('hook_attn_out', 'hook_mlp_out', 'hook_pos_em"):
        partial.decompose_resid()
    assert partial.stack_head_results().shape == (8, 2, 6, 16)
    with pytest.raises(KeyError, match=r"resid_post.*did not cache"):
        partial.stack_head_results(incl_remainder=True)
    _, enough = model.run_with_cache(TOKENS, names_filter=lambda n: n.endswith(("hook_z", "1.hook_resid_post")))
    assert enough.stack_head_results(incl_remainder=True).shape == (9, 2, 6, 16)
    _, enough = model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith("hook_post"))
    assert enough.get_neuron_results(1).shape == (2, 6, 64, 16)
    assert enough.stack_neuron_results(-1, neuron_slice=(0, 3)).shape == (6, 2, 6, 16)


def test_the_stream_that_enters_a_layer_goes_by_either_of_its_names(model):
    wanted = ("hook_z", "0.hook_resid_post")
    _, partial = model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith(wanted))
    stack = partial.stack_head_results(1, incl_remainder=True)
    torch.testing.assert_close(stack.sum(0), partial["resid_post", 0], **CLOSE)


def test_one_neuron_has_no_dimension(cache):
    every = cache.get_neuron_results(0)
    onto = torch.randn(16, 3)
    torch.testing.assert_close(cache.get_neuron_results(0, 5), every[..., 5, :])
    torch.testing.assert_close(cache.get_neuron_results(0, -1, 2), every[:, 2, -1])
    torch.testing.assert_close(cache.get_neuron_results(0, 5, None, onto), every[..., 5, :] @ onto, **CLOSE)
    torch.testing.assert_close(cache.get_neuron_results(0, 5, 1, onto[:, 0]), every[:, 1, 5] @ onto[:, 0], **CLOSE)
    stack, labels = cache.stack_neuron_results(2, neuron_slice=-1, return_labels=True)
    assert labels == ["L0N63", "L1N63"]
    torch.testing.assert_close(stack[0], every[..., -1, :])


def test_a_hook_that_changed_results_is_heard_where_they_were_cached(model):
    def without_head_2(result, hook):
        result[:, :, 2] = 0

    model.set_use_attn_result(True)
    try:
        with model.hooks(fwd_hooks=[("blocks.0.attn.hook_result", without_head_2)]):
            _, cache = model.run_with_cache(TOKENS)
    finally:
        model.set_use_attn_result(False)
    heads = cache.stack_head_results(1)
    assert not heads[2].any() and heads[1].any()
    torch.testing.assert_close(cache.get_full_resid_decomposition().sum(0), cache["resid_post", -1], **CLOSE)
    kept = cache["result", 0]
    cache.compute_head_results()
    assert cache["result", 0] is kept


def test_stacking_heads_leaves_the_cache_as_it_is(cache):
    names = list(cache)
    cache.stack_head_results()
    cache.get_full_resid_decomposition()
    assert list(cache) == names
    stack = cache.decompose_resid()
    before = stack.clone()
    cache.apply_ln_to_stack(stack)
    cache.logit_attrs(stack, 3)
    assert torch.equal(stack, before)


@pytest.mark.parametrize("name", ["gpt2-like", "post-norms", "every optional point"])
def test_norms_of_heads(name):
    _, model = pair(CONFIGS[name])
    _, cache = model.run_with_cache(TOKENS)
    norms = torch.cat([cache.stack_head_norms(layer) for layer in (0, -1)])
    torch.testing.assert_close(norms, cache.stack_head_results().norm(dim=-1), **CLOSE)


def test_tokens_in_every_form(cache):
    stack = cache.accumulated_resid()
    expected = cache.logit_attrs(stack, 7)
    for tokens in ("w07", torch.tensor(7), [7, 7], ["w07", "w07"], torch.full((2, 6), 7), torch.full((2, 1), 7)):
        torch.testing.assert_close(cache.logit_attrs(stack, tokens), expected)
    _, one = cache.model.run_with_cache(TOKENS[:1])
    torch.testing.assert_close(
        one.logit_attrs(one.accumulated_resid(), TOKENS[0]), one.logit_attrs(one.accumulated_resid(), TOKENS[:1])
    )


@pytest.mark.parametrize("name", ["gpt2-like", "experts", "query/key norm"])
@pytest.mark.parametrize("lazy", [False, True], ids=["full", "lazy"])
@pytest.mark.parametrize("batch_slice", [1, (0, 1), [1, 0], [-1]], ids=str)
def test_slices_of_the_batch(name, lazy, batch_slice):
    _, model = pair(CONFIGS[name])
    _, cache = model.run_with_cache(TOKENS, lazy=lazy)
    sliced = cache.apply_slice_to_batch_dim(batch_slice)
    picked = slice(*batch_slice) if isinstance(batch_slice, tuple) else batch_slice
    tokens = TOKENS[[picked]] if isinstance(picked, int) else TOKENS[picked]
    _, expected = model.run_with_cache(tokens, remove_batch_dim=isinstance(batch_slice, int))
    assert sliced.has_batch_dim == expected.has_batch_dim and cache.has_batch_dim
    assert torch.equal(sliced.tokens, tokens)
    for each in expected:
        if ".experts." not in each:
            torch.testing.assert_close(sliced[each], expected[each], **CLOSE)
    torch.testing.assert_close(sliced.decompose_resid(), expected.decompose_resid(), **CLOSE)
    if not lazy:
        sliced["resid_pre", 0].zero_()
        assert cache["resid_pre", 0].any(1).all()


@pytest.mark.parametrize("name", ["experts", "query/key norm"])
def test_the_batch_dimension_goes_where_there_is_one(name):
    _, model = pair(CONFIGS[name])
    _, cache = model.run_with_cache(TOKENS[:1])
    _, without = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    cache.remove_batch_dim()
    assert {name: t.shape for name, t in cache.items()} == {name: t.shape for name, t in without.items()}
    assert cache["resid_pre", 0].shape == (6, 16)


def test_toggle_autodiff_is_for_all_of_torch(cache):
    try:
        with pytest.warns(UserWarning, match="off everywhere"):
            assert cache.toggle_autodiff() is None
        assert not torch.is_grad_enabled()
        with pytest.warns(UserWarning, match="on everywhere"):
            cache.toggle_autodiff(True)
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_activations_with_gradients_keep_them(model):
    _, fwd_cache = model.run_with_cache(TOKENS)
    attached = {name: activation.clone().requires_grad_() for name, activation in fwd_cache.items()}
    cache = ActivationCache(attached, model)
    cache.logit_attrs(cache.apply_ln_to_stack(cache.decompose_resid()), 3).sum().backward()
    assert attached["blocks.0.hook_mlp_out"].grad.any()


def test_half_precision_stays(model):
    half = HookedTransformer(FOLDED | dict(dtype=torch.bfloat16))
    _, cache = half.run_with_cache(TOKENS)
    for stack in (cache.stack_head_results(apply_ln=True), cache.decompose_resid(apply_ln=True)):
        assert stack.dtype == torch.bfloat16 and stack.isfinite().all()
    assert cache.get_full_resid_decomposition(project_output_onto=torch.randn(16)).dtype == torch.bfloat16


@pytest.mark.parametrize("config", [GPT2_LIKE, GPT2_LIKE | dict(normalization_type=None)], ids=["norms", "no norms"])
def test_logits_of_one_component_alone(config):
    model = HookedTransformer(config)
    _, cache = model.run_with_cache(torch.arange(18).view(2, 9))
    alone, stack = cache["resid_post", -1], cache.accumulated_resid()
    for pos_slice in (None, -1, (2, 4)):
        for batch_slice in (None, 0, (1, 2)):
            options = dict(pos_slice=pos_slice, batch_slice=batch_slice)
            picked = Slice(pos_slice).apply(alone, dim=1)
            attrs = cache.logit_attrs(picked, 7, **options)
            expected = cache.logit_attrs(Slice(pos_slice).apply(stack, dim=2), 7, **options)[-1]
            torch.testing.assert_close(attrs, expected)
    assert cache.logit_attrs(alone, 7, batch_slice=0).shape == (9,)
