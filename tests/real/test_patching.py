"""Sweeps on the real model: where does the name come from that it would say?"""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_patching_engine import naively, swept
from tl_widgets import patching
from tl_widgets.patching import setters

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


@pytest.fixture(scope="module")
def ioi(processed):
    clean, corrupted = processed.to_tokens(CLEAN), processed.to_tokens(CORRUPTED)
    with torch.no_grad():
        clean_logits, cache = processed.run_with_cache(clean, lazy=True)
    metric = patching.LogitDiff(processed.to_single_token(" Mary"), processed.to_single_token(" John"))
    return processed, corrupted, cache, metric, float(metric(clean_logits))


@pytest.mark.slow
@pytest.mark.parametrize(
    "setter, name, indices",
    [
        (setters.layer_pos_patch_setter, "resid_pre", [(0, 10), (3, 10), (12, 14), (29, 14), (20, 11)]),
        (setters.layer_pos_head_vector_patch_setter, "z", [(5, 10, 2), (16, 14, 8), (29, 14, 0)]),
        (setters.layer_head_vector_patch_setter, "v", [(2, 1), (17, 2)]),
        (setters.layer_head_pattern_patch_setter, "pattern", [(11, 3), (20, 7)]),
    ],
)
def test_sweeps_agree_with_hooked_passes(ioi, setter, name, indices):
    model, corrupted, clean, metric, _ = ioi
    expected = naively(model, corrupted, clean, metric, setter, name, indices)
    for each in (metric, lambda logits: metric(logits)):
        values = swept(model, corrupted, clean, each, setter, name, indices)
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_answer_moves_from_the_second_name_to_the_last_position(ioi):
    model, corrupted, clean, metric, clean_value = ioi
    values = patching.get_act_patch_resid_pre(model, corrupted, clean, metric, progress=False)
    with torch.no_grad():
        baseline = float(metric(model(corrupted)))
    restored = (values - baseline) / (clean_value - baseline)
    parting = patching.CorruptedRun(model, corrupted).parted_from(clean)
    assert (values[:, :parting] == values[0, 0]).all() and abs(restored[0, 0]) < 1e-4
    torch.testing.assert_close(restored[0, parting], torch.tensor(1.0), atol=1e-3, rtol=0)
    assert restored[-1, -1] > 0.95 and abs(restored[-1, parting]) < 0.05
