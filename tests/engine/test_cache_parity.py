"""What is derived from a cache, against the oracle: every method under every combination of its flags."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch

from tests.engine.oracle import CONFIGS, pair
from tl_widgets.hooks import has_batch_axis

TOKENS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)
GENERATOR = torch.Generator().manual_seed(2)
PROJECTIONS = (None, torch.randn(16, generator=GENERATOR), torch.randn(16, 3, generator=GENERATOR))

POS_SLICES = (None, 2, (1, 4), -1, slice(0, 5, 2), [0, -1])
LAYERS = (None, 0, 1, 2, -1)
BOTH = (False, True)
FLAGS = {
    "accumulated_resid": dict(layer=LAYERS[:3], incl_mid=BOTH, apply_ln=BOTH, mlp_input=BOTH, pos_slice=POS_SLICES),
    "decompose_resid": dict(
        layer=LAYERS[:3], mlp_input=BOTH, mode=("all", "mlp", "attn", "full"), apply_ln=BOTH, pos_slice=POS_SLICES,
        incl_embeds=BOTH,
    ),
    "stack_head_results": dict(layer=LAYERS, incl_remainder=BOTH, pos_slice=POS_SLICES, apply_ln=BOTH),
    "stack_neuron_results": dict(
        layer=(0, 1, -1), pos_slice=POS_SLICES, neuron_slice=(None, (3, 9), [0, 5, -1]), incl_remainder=BOTH,
        apply_ln=BOTH, project_output_onto=PROJECTIONS,
    ),
    "get_full_resid_decomposition": dict(
        layer=LAYERS[:3], mlp_input=BOTH, expand_neurons=BOTH, apply_ln=BOTH, pos_slice=POS_SLICES,
        project_output_onto=PROJECTIONS,
    ),
}  # fmt: skip
# Under all kinds of slices; and without a batch dimension: each kind of model. Its variants: under two of them.
KINDS = (
    "gpt2-like", "no norm", "attention only", "parallel, partial rotary", "llama-like grouped", "post-norms",
    "every optional point", "shortformer", "experts", "query/key norm", "bidirectional",
)  # fmt: skip


def fault(name: str, config: dict, flags: dict) -> int | None:
    """The number of the reference's fault that this call meets (see test_cache_faults.py), or None."""
    is_end = flags["layer"] in (None, -1, 2)
    mlp_input, apply_ln = flags.get("mlp_input"), flags.get("apply_ln")
    projects = flags.get("project_output_onto") is not None
    no_mid = config.get("attn_only") or config.get("parallel_attn_mlp")
    # The last of the configs' post-norms has no norm to it.
    post_norms = config.get("use_normalization_before_and_after") and config.get("normalization_type", "LN")
    splits = config.get("use_split_qkv_input") or config.get("use_attn_in")
    by_part = name in ("stack_head_results", "stack_neuron_results", "get_full_resid_decomposition")
    meets = {
        3: name == "get_full_resid_decomposition" and mlp_input and apply_ln and projects,
        4: name == "get_full_resid_decomposition" and config.get("attn_only") and flags["expand_neurons"],
        5: config.get("num_experts") and (name == "stack_neuron_results" or flags.get("expand_neurons")),
        6: config.get("positional_embedding_type") == "shortformer" and "resid" in name and name != "accumulated_resid"
        and flags.get("incl_embeds", True),
        7: post_norms and by_part,
        8: name in ("stack_head_results", "stack_neuron_results") and flags["layer"] == 0 and flags["incl_remainder"],
        9: name == "accumulated_resid" and no_mid and (flags["incl_mid"] or mlp_input),
        11: apply_ln and splits and not is_end and not mlp_input,
        # Not in the list: without norms, it misses a scale under a projection.
        0: apply_ln and projects and config.get("normalization_type", "LN") is None,
    }  # fmt: skip
    return next((number for number, does in meets.items() if does), None)


def impossible(name: str, config: dict, flags: dict) -> bool:
    """Whether the reference, too, has nothing to return."""
    is_end = flags["layer"] in (None, -1, 2)
    return bool(
        (flags.get("mlp_input") and is_end and name != "accumulated_resid")
        or (flags.get("mlp_input") and flags.get("apply_ln") and config.get("attn_only"))
        or (name == "stack_neuron_results" and config.get("attn_only") and flags["layer"] != 0)
        or (flags["layer"] == 0 and not flags.get("incl_embeds", True) and not flags["mlp_input"])
        or (
            name == "decompose_resid" and not flags["incl_embeds"] and flags["mode"] == "mlp"
            and (config.get("attn_only") or flags["layer"] == 0)
        )
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)  # the oracle says each time that head results are computed already
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_stacks_of_each_kind_under_every_slice(name):
    theirs, ours = pair(CONFIGS[name])
    compare_stacks(theirs.run_with_cache(TOKENS)[1], ours.run_with_cache(TOKENS)[1], CONFIGS[name])


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_stacks_without_batch_dimension(name):
    theirs, ours = pair(CONFIGS[name])
    # The reference fails on activations that have batch and position in one axis.
    _, their_cache = theirs.run_with_cache(TOKENS[:1], remove_batch_dim=True, names_filter=has_batch_axis)
    _, cache = ours.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    compare_stacks(their_cache, cache, CONFIGS[name], POS_SLICES[:2])


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in KINDS])
@torch.no_grad()
def test_stacks_of_every_variant(name):
    theirs, ours = pair(CONFIGS[name])
    compare_stacks(theirs.run_with_cache(TOKENS)[1], ours.run_with_cache(TOKENS)[1], CONFIGS[name], POS_SLICES[1:2])


def compare_stacks(their_cache, cache, config, pos_slices=POS_SLICES):
    compared = 0
    for name, choices in FLAGS.items():
        for values in itertools.product(*(choices | dict(pos_slice=pos_slices)).values()):
            flags = dict(zip(choices, values, strict=True))
            if fault(name, config, flags) is not None:
                continue
            if impossible(name, config, flags):
                with pytest.raises((ValueError, KeyError)):
                    getattr(cache, name)(**flags, return_labels=True)
                continue
            expected, their_labels = getattr(their_cache, name)(**flags, return_labels=True)
            stack, labels = getattr(cache, name)(**flags, return_labels=True)
            torch.testing.assert_close(stack, expected, **CLOSE, msg=lambda m, f=flags, n=name: f"{n}({f}): {m}")
            assert labels == list(their_labels), (name, flags)
            assert len(labels) == len(stack)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_single_layers_norms_and_logits(config):
    theirs, ours = pair(config)
    _, their_cache = theirs.run_with_cache(TOKENS)
    _, cache = ours.run_with_cache(TOKENS)
    splits = config.get("use_split_qkv_input") or config.get("use_attn_in")

    their_cache.compute_head_results()
    assert cache.compute_head_results() is None
    for layer in (0, 1):
        torch.testing.assert_close(cache["result", layer], their_cache["result", layer], **CLOSE)
    torch.testing.assert_close(cache.stack_activation("z"), their_cache.stack_activation("z"), **CLOSE)
    torch.testing.assert_close(cache.stack_activation("z", 1), their_cache.stack_activation("z", 1), **CLOSE)

    stack = their_cache.accumulated_resid()
    for layer, mlp_input, recompute_ln in itertools.product(LAYERS, BOTH, BOTH):
        is_end = layer in (None, -1, 2)
        if (splits and not is_end and not mlp_input) or (config.get("attn_only") and mlp_input and not is_end):
            continue  # fault 11; no such norm
        flags = dict(layer=layer, mlp_input=mlp_input, recompute_ln=recompute_ln)
        expected = their_cache.apply_ln_to_stack(stack, **flags)
        torch.testing.assert_close(cache.apply_ln_to_stack(stack, **flags), expected, **CLOSE)

    for pos_slice, batch_slice in itertools.product(POS_SLICES, (None, 1, (0, 1), [1, 0])):
        slices = dict(pos_slice=pos_slice, batch_slice=batch_slice)
        picked = ours_slice(stack, pos_slice, 2)
        torch.testing.assert_close(
            cache.apply_ln_to_stack(picked, **slices), their_cache.apply_ln_to_stack(picked, **slices), **CLOSE
        )
        batch_and_pos = ours_slice(picked, batch_slice, 1).shape[1:-1]
        for tokens in (3, torch.tensor(3), torch.randint(0, 50, batch_and_pos)):
            for incorrect in (None, 4 if isinstance(tokens, int) else (tokens + 1) % 50):
                expected = their_cache.logit_attrs(picked, tokens, incorrect, **slices)
                if config.get("normalization_type", "LN") is None:  # there the reference forgets batch_slice
                    expected = their_cache.logit_attrs(ours_slice(picked, batch_slice, 1), tokens, incorrect)
                torch.testing.assert_close(attrs(cache, picked, tokens, incorrect, **slices), expected, **CLOSE)
    one = stack[:, 0, -1]
    slices = dict(pos_slice=-1, batch_slice=0, has_batch_dim=False)
    torch.testing.assert_close(cache.apply_ln_to_stack(one, **slices), their_cache.apply_ln_to_stack(one, **slices))
    torch.testing.assert_close(attrs(cache, one, 3, **slices), their_cache.logit_attrs(one, 3, **slices), **CLOSE)
    for alone, pos_slice in ((stack[-1, :, -1], -1), (stack[-1], None)):  # one component, without an axis for it
        expected = their_cache.apply_ln_to_stack(alone, pos_slice=pos_slice)
        torch.testing.assert_close(cache.apply_ln_to_stack(alone, pos_slice=pos_slice), expected, **CLOSE)
        expected = their_cache.logit_attrs(alone, 3, pos_slice=pos_slice)
        torch.testing.assert_close(attrs(cache, alone, 3, pos_slice=pos_slice), expected, **CLOSE)

    if config.get("attn_only") or config.get("num_experts") or config.get("use_normalization_before_and_after"):
        return  # no neurons, faults 5 and 7
    for neurons, pos_slice, onto in itertools.product((None, (1, 4), [0, -1], 3), POS_SLICES, PROJECTIONS):
        if neurons == 3 and onto is not None:
            continue  # the reference keeps the dimension, or fails; see test_cache_derived.py
        for layer in (0, -1):
            expected = their_cache.get_neuron_results(layer, neurons, pos_slice, onto)
            torch.testing.assert_close(cache.get_neuron_results(layer, neurons, pos_slice, onto), expected, **CLOSE)


def attrs(cache, *args, **kwargs):
    """`logit_attrs`, with its warning where the final norm has a gain of its own."""
    if not hasattr(cache.model.ln_final, "w"):
        return cache.logit_attrs(*args, **kwargs)
    with pytest.warns(UserWarning, match="gain"):
        return cache.logit_attrs(*args, **kwargs)


def ours_slice(tensor: torch.Tensor, given: object, dim: int) -> torch.Tensor:
    given = slice(*given) if isinstance(given, tuple) else slice(None) if given is None else given
    return tensor[(slice(None),) * dim + (given,)]
