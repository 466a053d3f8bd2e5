"""Properties that hold whatever the input: slices, hooks, padding, caches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens.utils import Slice as TheirSlice

from tests.engine.oracle import CAUSAL, CONFIGS, pair
from tl_widgets.math import Slice
from tl_widgets.text import HookedTransformerKeyValueCache

MODELS = {name: pair(CONFIGS[name])[1] for name in ("gpt2-like", "llama-like grouped", "alibi", "local attention")}
CLOSE = dict(atol=1e-4, rtol=1e-4)
LENGTH = 7
index = st.integers(-LENGTH, LENGTH - 1)
bound = st.none() | st.integers(-LENGTH - 2, LENGTH + 2)
slices = (
    st.none()
    | index
    | st.tuples(bound, bound)
    | st.tuples(bound, bound, st.none() | st.integers(1, 3))
    | st.lists(index, min_size=1, max_size=5)
)
few = settings(max_examples=40, deadline=None, derandomize=True)


@few
@given(slices, st.sampled_from([0, 1, 2, -1, -2]))
def test_a_slice_does_what_indexing_does(given_slice, dim):
    tensor = torch.arange(LENGTH**3).view(LENGTH, LENGTH, LENGTH)
    sliced = Slice(given_slice).apply(tensor, dim)
    torch.testing.assert_close(sliced, TheirSlice(given_slice).apply(tensor, dim))
    wanted = slice(*given_slice) if isinstance(given_slice, tuple) else given_slice
    along = np.arange(LENGTH) if wanted is None else np.arange(LENGTH)[wanted]
    np.testing.assert_array_equal(np.take(tensor.numpy(), along, axis=dim), sliced.numpy())


@few
@given(st.data())
def test_hooks_leave_nothing_behind_wherever_one_raises(data):
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    # Heads that share keys have no inputs of their own: a hook there is refused, which has a test of its own.
    points = [name for name in model.hook_dict if not (model.cfg.n_key_value_heads and name.endswith("hook_attn_in"))]
    names = data.draw(st.lists(st.sampled_from(sorted(points)), min_size=1, max_size=5))
    fails = data.draw(st.sampled_from(names))

    def hook(x, hook):
        if hook.name == fails:
            raise ZeroDivisionError(fails)

    tokens = torch.arange(5)[None]
    expected = model(tokens)
    run = data.draw(st.sampled_from([model.run_with_hooks, model.run_with_cache]))
    with pytest.raises(ZeroDivisionError, match=fails), model.hooks(fwd_hooks=[(name, hook) for name in names]):
        run(tokens)
    assert not any(point.has_hooks() for point in model.hook_points())
    assert model.context_level == 0
    torch.testing.assert_close(model(tokens), expected)


prompts = st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=8), min_size=1, max_size=4)


@few
@given(st.sampled_from(sorted(MODELS)), prompts, st.sampled_from(["left", "right"]), st.booleans())
def test_padding_gives_each_prompt_the_logits_it_has_alone(name, prompts, side, watched):
    model, width = MODELS[name], max(map(len, prompts))
    tokens, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        tokens[row, where], mask[row, where] = torch.tensor(prompt), 1
    run = (lambda *a, **k: model.run_with_cache(*a, **k)[0]) if watched else model
    together = run(tokens, attention_mask=mask)
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(together[row, mask[row] == 1], model(torch.tensor([prompt]))[0], **CLOSE)


@few
@given(
    st.sampled_from([name for name in sorted(MODELS) if name in CAUSAL]),
    st.lists(st.integers(0, 49), min_size=2, max_size=20),
    st.lists(st.integers(1, 19), max_size=4, unique=True),
)
def test_a_sequence_read_in_parts_through_a_cache_equals_one_pass(name, prompt, cuts):
    model, tokens = MODELS[name], torch.tensor([prompt])
    past = HookedTransformerKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
    cuts = [0, *sorted(cut for cut in cuts if cut < len(prompt)), len(prompt)]
    parts = [model(tokens[:, a:b], past_kv_cache=past) for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), **CLOSE)
