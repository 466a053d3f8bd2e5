"""What stacks allocate: their output, and hardly more; counted by the allocator itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import tl_widgets.cache.reading
from tests.engine.oracle import GPT2_LIKE, LLAMA_LIKE
from tl_widgets import HookedTransformer

SHAPE = dict(d_model=64, d_head=16, d_mlp=256, n_ctx=64)
MODELS = {
    "LayerNorm": GPT2_LIKE | SHAPE,
    "post-norms": LLAMA_LIKE | SHAPE | dict(use_normalization_before_and_after=True, rotary_dim=16),
}
TOKENS = torch.randint(0, 50, (4, 48), generator=torch.Generator().manual_seed(0))
GENERATOR = torch.Generator().manual_seed(2)
ONTO_ONE, ONTO_THREE = torch.randn(64, generator=GENERATOR), torch.randn(64, 3, generator=GENERATOR)

CALLS = {
    "head results": lambda cache: cache.compute_head_results(),
    "heads": lambda cache: cache.stack_head_results(),
    "heads, normed": lambda cache: cache.stack_head_results(apply_ln=True),
    "heads, at two positions": lambda cache: cache.stack_head_results(pos_slice=[3, -1], apply_ln=True),
    "neurons of a layer": lambda cache: cache.get_neuron_results(1),
    "neurons of a layer, onto one": lambda cache: cache.get_neuron_results(1, project_output_onto=ONTO_ONE),
    "neurons": lambda cache: cache.stack_neuron_results(-1, apply_ln=True),
    "neurons, onto one": lambda cache: cache.stack_neuron_results(-1, project_output_onto=ONTO_ONE, apply_ln=True),
    "neurons, onto three": lambda cache: cache.stack_neuron_results(-1, project_output_onto=ONTO_THREE),
    "neurons, at one position": lambda cache: cache.stack_neuron_results(-1, pos_slice=-1),
    "everything": lambda cache: cache.get_full_resid_decomposition(apply_ln=True),
    "everything, onto one": lambda cache: cache.get_full_resid_decomposition(
        apply_ln=True, project_output_onto=ONTO_ONE
    ),
}


def allocations(call: Callable) -> tuple[int, int]:
    """Bytes of the largest allocation of a call, and the most it held at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    held = most = largest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            largest, most = max(largest, event.nbytes()), max(most, held)
    del result
    return largest, most


def test_the_count_counts():
    largest, most = allocations(lambda: (torch.ones(1000) * 2) + 1)  # three, of which two at a time
    assert largest == 4000 and 8000 <= most < 8100


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_a_stack_allocates_its_output_and_hardly_more(config, call):
    _, cache = HookedTransformer(config).requires_grad_(False).run_with_cache(TOKENS)
    before = cache.nbytes
    result = call(cache)
    output = result.nbytes if result is not None else cache.nbytes - before
    _, cache = HookedTransformer(config).requires_grad_(False).run_with_cache(TOKENS)
    largest, most = allocations(lambda: call(cache))
    assert largest <= output
    # Beside it: what was picked of the activations it is made from, projected weights, one mean a component.
    assert most <= 1.3 * output, (most, output)


def test_logit_attrs_forms_nothing_of_the_size_of_the_stack():
    _, cache = HookedTransformer(GPT2_LIKE | SHAPE | dict(normalization_type="LNPre")).run_with_cache(TOKENS)
    stack = cache.get_full_resid_decomposition(pos_slice=(0, 8))
    for tokens in (3, torch.tensor([1, 2, 3, 4]), torch.randint(0, 50, (4, 8))):
        _, most = allocations(lambda tokens=tokens: cache.logit_attrs(stack, tokens, pos_slice=(0, 8)))
        assert most < stack.nbytes / 10


@pytest.mark.parametrize(
    "call, cheaper",
    [
        (lambda cache: cache.stack_neuron_results(-1), "project_output_onto=.*neuron_slice=.*pos_slice="),
        (lambda cache: cache.get_neuron_results(0), "project_output_onto="),
        (lambda cache: cache.get_full_resid_decomposition(), "expand_neurons=False.*project_output_onto="),
        (lambda cache: cache.stack_head_results(), "pos_slice="),
        (lambda cache: cache.compute_head_results(), "stack_head_results"),
    ],
)
def test_what_would_not_fit_is_refused_before_it_is_formed(monkeypatch, call, cheaper):
    _, cache = HookedTransformer(MODELS["LayerNorm"]).run_with_cache(TOKENS)
    monkeypatch.setattr(tl_widgets.cache.reading, "available_memory", lambda device: 100_000)
    with pytest.raises(ValueError, match=rf"takes [\d,]+ bytes .*100.0 kB left.*{cheaper}"):
        call(cache)
    assert ("result", 0) not in cache


def test_neurons_of_a_long_prompt_are_refused_on_this_machine():
    # A quarter of a petabyte, asked for through activations that take no memory.
    _, cache = HookedTransformer(MODELS["LayerNorm"]).run_with_cache(TOKENS)
    for layer in (0, 1):
        post = cache[f"blocks.{layer}.mlp.hook_post"]
        cache.cache_dict[f"blocks.{layer}.mlp.hook_post"] = post[:1, :1].expand(2_000_000, 1000, 256)
    with pytest.raises(ValueError, match="131,072,000,000,000 bytes"):
        cache.get_neuron_results(0)
