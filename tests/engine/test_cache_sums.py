"""Parts sum to the whole, whatever the model, the layer, the slices, the norm and the projection."""

from __future__ import annotations

from functools import cache as remember

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE
from tl_widgets import HookedTransformer
from tl_widgets.math import Slice

TOKENS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=2e-4, rtol=2e-4)

# What the reference cannot build: post-norms that are LayerNorms, whose biases have a part of their own.
MODELS = CONFIGS | {
    f"post-norms, {norm}": GPT2_LIKE | dict(use_normalization_before_and_after=True, normalization_type=norm)
    for norm in ("LN", "LNPre")
}
MODELS["experts, post-norms"] = LLAMA_LIKE | dict(
    num_experts=4, experts_per_token=2, use_normalization_before_and_after=True
)
KINDS = ("whole", "one prompt", "no batch", "sliced", "one position", "lazy")
CENTRING = ("LN", "LNPre")


@remember
def model_of(name: str) -> HookedTransformer:
    model = HookedTransformer(dict(MODELS[name]))
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(model.named_parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@remember
def cache_of(name: str, kind: str):
    options = {
        "whole": {},
        "one prompt": {},
        "no batch": dict(remove_batch_dim=True),
        "sliced": dict(pos_slice=(1, 5)),
        "one position": dict(pos_slice=Slice(3)),  # the dimension goes
        "lazy": dict(lazy=True),
    }[kind]
    tokens = TOKENS[:1] if kind in ("one prompt", "no batch") else TOKENS
    return model_of(name).run_with_cache(tokens, **options)[1]


def whole(cache, layer, mlp_input, apply_ln, pos_slice):
    """The stream itself, through its norm where that is asked for."""
    cfg = cache.model.cfg
    is_end = layer in (None, -1, cfg.n_layers)
    stream = cache["resid_post", -1] if is_end else cache["resid_pre", layer]
    if mlp_input:
        stream = stream + cache["attn_out", layer]
    if apply_ln and cfg.normalization_type is not None:
        norm = "ln_final" if is_end else f"blocks.{layer}.{'ln2' if mlp_input else 'ln1'}"
        # In a parallel block the MLP does not read its own layer's attention.
        read = cache["resid_pre", layer] if mlp_input and cfg.parallel_attn_mlp else stream
        centre = cfg.normalization_type in CENTRING
        read = read - read.mean(-1, keepdim=True) * centre
        scale = (read.pow(2).mean(-1, keepdim=True) + cfg.eps).sqrt()
        if cache[f"{norm}.hook_scale"].ndim == scale.ndim:  # inputs that are split by head have many
            torch.testing.assert_close(cache[f"{norm}.hook_scale"], scale, **CLOSE)
        stream = (stream - stream.mean(-1, keepdim=True) * centre) / scale
    return stream if pos_slice is None else Slice(pos_slice).apply(stream, dim=int(cache.has_batch_dim))


pos_slices = st.one_of(
    st.none(),
    st.integers(-4, 3),
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)).filter(lambda t: len(range(4)[slice(*t)])),
    st.lists(st.integers(-4, 3), min_size=1, max_size=5),
    st.tuples(st.none(), st.none(), st.integers(1, 3)),
)
directions = st.sampled_from([None, 1, 2])


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    kind=st.sampled_from(KINDS),
    layer=st.sampled_from([None, 0, 1, 2, -1]),
    mlp_input=st.booleans(),
    apply_ln=st.booleans(),
    expand_neurons=st.booleans(),
    pos_slice=pos_slices,
    onto=directions,
)
def test_parts_sum_to_the_whole(name, kind, layer, mlp_input, apply_ln, expand_neurons, pos_slice, onto):
    cache = cache_of(name, kind)
    cfg = cache.model.cfg
    pos_slice = None if kind == "one position" else pos_slice
    mlp_input = mlp_input and layer in (0, 1) and not (cfg.attn_only and apply_ln)
    to = dict(layer=layer, apply_ln=apply_ln, pos_slice=pos_slice)
    expected = whole(cache, layer, mlp_input, apply_ln, pos_slice)

    torch.testing.assert_close(cache.decompose_resid(**to, mlp_input=mlp_input).sum(0), expected, **CLOSE)

    projection = None if onto is None else torch.randn(16, onto, generator=torch.Generator().manual_seed(3))
    if onto == 1:
        projection = projection[:, 0]
    projected = expected if projection is None else expected @ projection
    stack, labels = cache.get_full_resid_decomposition(
        **to, mlp_input=mlp_input, expand_neurons=expand_neurons, project_output_onto=projection, return_labels=True
    )
    torch.testing.assert_close(stack.sum(0), projected, **CLOSE)
    assert len(labels) == len(set(labels)) == len(stack)

    at_layer = whole(cache, layer, False, apply_ln, pos_slice)
    heads, labels = cache.stack_head_results(**to, incl_remainder=True, return_labels=True)
    torch.testing.assert_close(heads.sum(0), at_layer, **CLOSE)
    assert labels[-1] == "remainder" and len(labels) == len(heads)
    if not cfg.attn_only and not cfg.num_experts:
        neurons = cache.stack_neuron_results(
            **to, neuron_slice=(3, 40), incl_remainder=True, project_output_onto=projection
        )
        projected = at_layer if projection is None else at_layer @ projection
        torch.testing.assert_close(neurons.sum(0), projected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_heads_and_neurons_sum_to_what_their_sublayers_add(name, kind):
    cache = cache_of(name, kind)
    cfg = cache.model.cfg
    every = cache.get_full_resid_decomposition(return_labels=True, expand_neurons=False)
    parts = dict(zip(every[1], every[0], strict=True))
    for layer in (0, 1):
        before = cache.get_full_resid_decomposition(layer=layer, expand_neurons=False)[-1]
        with_attention = cache.get_full_resid_decomposition(layer=layer, mlp_input=True, expand_neurons=False)[-1]
        heads = sum(parts[f"L{layer}H{head}"] for head in range(cfg.n_heads))
        torch.testing.assert_close(heads + with_attention - before, cache["attn_out", layer], **CLOSE)
        if cfg.attn_only or cfg.num_experts:
            continue
        after = cache.get_full_resid_decomposition(layer=layer + 1)[-1]
        before = cache.get_full_resid_decomposition(layer=layer, mlp_input=True)[-1]
        neurons = cache.get_neuron_results(layer).sum(-2)
        torch.testing.assert_close(neurons + after - before, cache["mlp_out", layer], **CLOSE)
