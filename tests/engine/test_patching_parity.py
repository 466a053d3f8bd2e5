"""Every named sweep beside the oracle's, on the same random weights."""

from __future__ import annotations

import pytest
import torch
import transformer_lens.patching as oracle

from tests.engine.oracle import CONFIGS, LLAMA_LIKE, pair
from tl_widgets import patching

CLEAN = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(3))
CORRUPTED = CLEAN.clone()
CORRUPTED[:, 3] = (CLEAN[:, 3] + 1) % 50
CORRUPTED[1, 4] = (CLEAN[1, 4] + 1) % 50

CLOSE = dict(atol=1e-4, rtol=1e-4)
FUNCTIONS = [name for name in patching.__all__ if name.startswith("get_act_patch")]
MAIN = ["gpt2-like", "llama-like grouped", "parallel, partial rotary", "attention only"]
# The oracle does not build these points there.
MISSING = {
    "parallel, partial rotary": {"get_act_patch_resid_mid"},
    "post-norms, parallel": {"get_act_patch_resid_mid"},
    "attention only": {"get_act_patch_resid_mid", "get_act_patch_mlp_out", "get_act_patch_block_every"},
    "shortformer, attention only": {"get_act_patch_resid_mid", "get_act_patch_mlp_out", "get_act_patch_block_every"},
}


def everywhere(logits):
    return (logits[:, -1, 5] - logits[:, -1, 6]).mean() + logits[0, 2, 3] * logits[1, 4].logsumexp(-1)


METRICS = {"structured": patching.LogitDiff(answer=[5, 7], wrong=6), "arbitrary": everywhere}


def both(config_name, function, metric):
    theirs, ours = pair(CONFIGS[config_name])
    with torch.no_grad():
        _, their_clean = theirs.run_with_cache(CLEAN)
        _, our_clean = ours.run_with_cache(CLEAN)
        expected = getattr(oracle, function)(theirs, CORRUPTED, their_clean, metric)
    return expected, getattr(patching, function)(ours, CORRUPTED, our_clean, metric, progress=False)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("config_name", MAIN)
def test_every_function_gives_the_oracles_numbers(config_name, function, metric):
    if function in MISSING.get(config_name, ()):
        _, model = pair(CONFIGS[config_name])
        _, clean = model.run_with_cache(CLEAN)
        with pytest.raises(KeyError, match="Unknown activation"):
            getattr(patching, function)(model, CORRUPTED, clean, metric, progress=False)
        return
    expected, values = both(config_name, function, metric)
    assert values.dtype == expected.dtype
    torch.testing.assert_close(values, expected, **CLOSE)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize("config_name", [name for name in CONFIGS if name not in MAIN and "ungrouped" not in name])
def test_every_architecture_gives_the_oracles_numbers(config_name, metric):
    for function in ("get_act_patch_attn_head_all_pos_every", "get_act_patch_block_every"):
        if function not in MISSING.get(config_name, ()):
            torch.testing.assert_close(*both(config_name, function, metric), **CLOSE)


def test_ungrouped_keys_and_values_have_all_heads():
    # The oracle sweeps as many as are stored.
    expected, values = both("ungrouped", "get_act_patch_attn_head_k_by_pos", everywhere)
    assert values.shape == (2, 7, 4)
    torch.testing.assert_close(values[..., : expected.shape[-1]], expected, **CLOSE)


def test_missing_heads_are_zero_in_the_stacks():
    _, model = pair(LLAMA_LIKE | dict(n_key_value_heads=2))
    _, clean = model.run_with_cache(CLEAN)
    stacked = patching.get_act_patch_attn_head_by_pos_every(model, CORRUPTED, clean, everywhere, progress=False)
    assert stacked.shape == (5, 2, 7, 4)
    assert not stacked[2:4, ..., 2:].any() and stacked[2:4, ..., :2].all()


def test_a_generic_patch_with_a_data_frame_of_indices():
    theirs, ours = pair(CONFIGS["gpt2-like"])
    with torch.no_grad():
        _, their_clean = theirs.run_with_cache(CLEAN)
    _, our_clean = ours.run_with_cache(CLEAN)
    index_df = patching.make_df_from_ranges([2, 4], ["layer", "pos"]).iloc[::-1]

    def from_here_on(corrupted, index, clean):
        corrupted[:, index[1] :] = 0.5 * clean[:, index[1] :]
        return corrupted

    arguments = dict(patch_setter=from_here_on, activation_name="resid_post", index_df=index_df)
    with torch.no_grad():
        expected = oracle.generic_activation_patch(theirs, CORRUPTED, their_clean, everywhere, **arguments)
    values = patching.generic_activation_patch(ours, CORRUPTED, our_clean, everywhere, **arguments, progress=False)
    assert values.shape == (8,)
    torch.testing.assert_close(values, expected, **CLOSE)


def test_the_data_frame_of_an_axis_sweep_comes_back_on_request():
    theirs, ours = pair(CONFIGS["gpt2-like"])
    with torch.no_grad():
        _, their_clean = theirs.run_with_cache(CLEAN)
    _, our_clean = ours.run_with_cache(CLEAN)
    with torch.no_grad():
        expected, their_df = oracle.get_act_patch_resid_pre(
            theirs, CORRUPTED, their_clean, everywhere, return_index_df=True
        )
    values, our_df = patching.get_act_patch_resid_pre(
        ours, CORRUPTED, our_clean, everywhere, return_index_df=True, progress=False
    )
    assert our_df.equals(their_df)
    torch.testing.assert_close(values, expected, **CLOSE)


@pytest.mark.parametrize(
    "setter, activation, index",
    [
        (patching.layer_pos_patch_setter, "resid_pre", (0, 3)),
        (patching.layer_pos_head_vector_patch_setter, "z", (0, 3, 1)),
        (patching.layer_head_vector_patch_setter, "z", (0, 1)),
        (patching.layer_head_pattern_patch_setter, "pattern", (0, 1)),
        (patching.layer_head_pos_pattern_patch_setter, "pattern", (0, 1, 3)),
        (patching.layer_head_dest_src_pos_pattern_patch_setter, "pattern", (0, 1, 4, 2)),
    ],
)
def test_setters_write_what_the_oracles_write(setter, activation, index):
    _, model = pair(CONFIGS["gpt2-like"])
    corrupted = model.run_with_cache(CORRUPTED)[1][activation, 0]
    clean = model.run_with_cache(CLEAN)[1][activation, 0]
    theirs = getattr(oracle, setter.__name__)(corrupted.clone(), index, clean)
    ours = corrupted.clone()
    assert setter(ours, index, clean) is ours
    assert torch.equal(ours, theirs) and not torch.equal(ours, corrupted)
