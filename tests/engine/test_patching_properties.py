"""Any pair of prompts, any metric, any setter: a sweep gives what a loop of hooked passes gives."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tests.engine.test_patching_engine import naively, swept
from tl_widgets import patching
from tl_widgets.patching import setters
from tl_widgets.patching.corrupted import CorruptedRun

# Numbers of random models reach the hundreds: relative to that, this is 1e-4.
CLOSE = dict(atol=1e-4, rtol=1e-4)

MODELS = {
    "MHA": GPT2_LIKE | dict(n_layers=3),
    "grouped": LLAMA_LIKE | dict(n_key_value_heads=2, n_layers=3),
    **{
        name: CONFIGS[name]
        for name in (
            "parallel, partial rotary", "attention only", "post-norms", "post-norms, parallel", "alibi",
            "local attention", "attention sinks", "soft caps", "experts", "shortformer", "bidirectional",
            "query/key norm", "ungrouped", "every optional point", "clipped", "solu_ln",
        )
    },
}  # fmt: skip


@cache
def model_of(name):
    return pair(MODELS[name])[1]


def mean_difference(logits):
    return (logits[:, -1, 5] - logits[:, -1, 6]).mean()


def of_a_middle_position(logits):
    return logits[:, logits.shape[1] // 2].log_softmax(-1)[:, 3].sum()


def of_everything(logits):
    return logits.logsumexp(-1).mean()


def by_editing(logits):
    logits[:, -1] -= logits[:, -1].mean()
    return logits[0, -1, 7].item()


def mixture(corrupted, index, clean):
    corrupted[:, index[1] % corrupted.shape[1] :: 2] = 0.5 * clean[:, index[1] % corrupted.shape[1] :: 2]


def one_example(corrupted, index, clean):
    corrupted[-1] = clean[0]
    return corrupted


def zeros_above(corrupted, index, clean):
    return corrupted.where(corrupted < clean.mean(), torch.zeros_like(corrupted))


@st.composite
def sweeps(draw):
    name = draw(st.sampled_from(sorted(MODELS)))
    model = model_of(name)
    batch, n_pos = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 50, (batch, n_pos), generator=generator)
    differing = torch.rand(batch, n_pos, generator=generator) < draw(st.sampled_from([0.2, 0.6]))
    corrupted = torch.where(differing, (clean + 1) % 50, clean)
    mask = None
    if draw(st.booleans()):
        mask = torch.ones_like(clean)
        padding = draw(st.integers(1, n_pos - 1))
        mask[0, slice(0, padding) if draw(st.booleans()) else slice(n_pos - padding, n_pos)] = 0

    activations = ["resid_pre", "resid_post", "attn_out", "z", "q", "k", "v", "pattern"]
    if not model.cfg.attn_only:
        activations += ["mlp_out", "mlp_in", *([] if model.cfg.num_experts else ["mlp_post"])]
        activations += [] if model.cfg.parallel_attn_mlp else ["resid_mid"]
    activation = draw(st.sampled_from(activations))
    n_heads = model.cfg.n_kv_hooked if activation in ("k", "v") else model.cfg.n_heads
    layers, positions, heads = range(model.cfg.n_layers), range(n_pos), range(n_heads)
    if activation == "pattern":
        kinds = [
            (setters.layer_head_pattern_patch_setter, (layers, heads)),
            (setters.layer_head_pos_pattern_patch_setter, (layers, heads, positions)),
            (setters.layer_head_dest_src_pos_pattern_patch_setter, (layers, heads, positions, positions)),
        ]
    else:
        kinds = [(setters.layer_pos_patch_setter, (layers, positions))]
        if activation in "zqkv":
            kinds.append((setters.layer_pos_head_vector_patch_setter, (layers, positions, heads)))
            kinds.append((setters.layer_head_vector_patch_setter, (layers, heads)))
    kinds += [(custom, (layers, positions)) for custom in (mixture, one_example, zeros_above)]
    setter, axes = draw(st.sampled_from(kinds))
    everywhere = list(itertools.product(*axes))
    indices = draw(st.lists(st.sampled_from(everywhere), min_size=1, max_size=8))

    tokens = st.lists(st.integers(0, 49), min_size=batch, max_size=batch)
    at = draw(
        st.one_of(st.integers(-n_pos, n_pos - 1), st.lists(st.integers(0, n_pos - 1), min_size=batch, max_size=batch))
    )
    metric = draw(
        st.sampled_from(
            [
                patching.LogitDiff(draw(tokens), draw(tokens), pos=at),
                patching.AnswerLogit(draw(tokens), pos=at),
                patching.AnswerProb(draw(tokens), pos=at),
                patching.KLFromClean(model(clean).detach(), pos=at),
                patching.Loss(corrupted),
                mean_difference,
                of_a_middle_position,
                of_everything,
                by_editing,
            ]
        )
    )
    batch_size = draw(st.sampled_from([None, 1, 3]))
    return model, clean, corrupted, mask, metric, setter, activation, indices, batch_size


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(sweeps())
def test_a_sweep_gives_what_a_loop_of_hooked_passes_gives(drawn):
    model, clean_tokens, corrupted, mask, metric, setter, activation, indices, batch_size = drawn
    points = [name for name in model.hook_dict if name.endswith("hook_mlp_in")]
    names = [*model.computed_points(), *points]
    _, clean = model.run_with_cache(clean_tokens, attention_mask=mask, names_filter=names)
    arguments = (clean, metric, setter, activation, indices)
    expected = naively(model, corrupted, *arguments, attention_mask=mask)
    run = CorruptedRun(model, corrupted, attention_mask=mask)
    torch.testing.assert_close(swept(model, run, *arguments, batch_size=batch_size), expected, **CLOSE)
