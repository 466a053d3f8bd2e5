"""The sweep engine: each of its ideas switched off, what it leaves out, and when it must take the plain way."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tl_widgets import ActivationCache, HookedTransformer, patching
from tl_widgets.errors import BadInput
from tl_widgets.patching import setters
from tl_widgets.patching.corrupted import CorruptedRun, can_be_taken_apart
from tl_widgets.patching.descent import DOORS, Descent
from tl_widgets.patching.options import ALL, Options
from tl_widgets.patching.patches import Sites
from tl_widgets.patching.pieces import Piece, run_piece
from tl_widgets.patching.sweep import sweep

CLEAN = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(3))
CORRUPTED = CLEAN.clone()
CORRUPTED[:, 3] = (CLEAN[:, 3] + 1) % 50
CLOSE = dict(atol=1e-5, rtol=1e-4)

LOGIT_DIFF = patching.LogitDiff(answer=[5, 7], wrong=6)
MIDDLE = patching.AnswerProb(answer=4, pos=[4, -1])

SITES = {
    "resid_pre": setters.layer_pos_patch_setter,
    "resid_mid": setters.layer_pos_patch_setter,
    "resid_post": setters.layer_pos_patch_setter,
    "attn_out": setters.layer_pos_patch_setter,
    "mlp_out": setters.layer_pos_patch_setter,
    "z": setters.layer_pos_head_vector_patch_setter,
    "q": setters.layer_pos_head_vector_patch_setter,
    "k": setters.layer_pos_head_vector_patch_setter,
    "v": setters.layer_pos_head_vector_patch_setter,
    "pattern": setters.layer_head_pos_pattern_patch_setter,
    # Nothing is prepared for these: their block is run as a whole.
    "mlp_post": setters.layer_pos_patch_setter,
    "attn_scores": setters.layer_head_pos_pattern_patch_setter,
    "result": setters.layer_pos_head_vector_patch_setter,
    "q_input": setters.layer_pos_head_vector_patch_setter,
    "mlp_in": setters.layer_pos_patch_setter,
}


def everywhere(logits):
    return (logits[:, -1, 5] - logits[:, -1, 6]).mean() + logits[0, 2, 3] * logits[1, 4].logsumexp(-1)


def indices_of(name):
    if name.startswith(("resid", "attn_out", "mlp")):
        return list(itertools.product(range(2), range(7)))
    if name in ("pattern", "attn_scores"):
        return list(itertools.product(range(2), range(2), range(7)))
    return list(itertools.product(range(2), range(7), range(2)))


def naively(model, tokens, clean, metric, setter, name, indices, **kwargs):
    """One hooked pass for each index: what a patch means."""
    values = []
    for index in indices:
        point = Sites(name, setter, clean).name(index[0], model)

        def hook(activation, hook, index=index, point=point):
            return setter(activation, index, clean[point])

        with torch.no_grad():
            values.append(float(metric(model.run_with_hooks(tokens, fwd_hooks=[(point, hook)], **kwargs))))
    return torch.tensor(values, dtype=torch.float64)


def swept(model, tokens, clean, metric, setter, name, indices, **options):
    values = torch.full((len(indices),), torch.nan, dtype=torch.float64)
    for places, some in sweep(model, tokens, clean, metric, setter, name, indices, **options):
        assert values[places].isnan().all()  # nothing comes twice
        values[places] = some
    return values


def prepared(config):
    """A model, and a clean cache that has optional activations, too."""
    _, model = pair(config)
    optional = {name for name in model.hook_dict if name.endswith(("hook_result", "hook_q_input", "hook_mlp_in"))}
    _, clean = model.run_with_cache(CLEAN, names_filter=[*model.computed_points(), *optional])
    return model, clean


@pytest.mark.parametrize("off", [None, *(field.name for field in fields(ALL))])
@pytest.mark.parametrize("name", SITES)
def test_each_idea_switched_off_gives_the_same_numbers(name, off):
    model, clean = prepared(GPT2_LIKE)
    shortcuts = ALL if off is None else replace(ALL, **{off: False})
    arguments = (SITES[name], name, indices_of(name))
    for metric in (LOGIT_DIFF, MIDDLE, everywhere):
        expected = naively(model, CORRUPTED, clean, metric, *arguments)
        values = swept(model, CORRUPTED, clean, metric, *arguments, shortcuts=shortcuts)
        torch.testing.assert_close(values, expected, **CLOSE)


@pytest.mark.parametrize(
    "config_name", ["attention sinks", "post-norms, parallel", "alibi", "local attention", "experts"]
)
@pytest.mark.parametrize("name", ["resid_pre", "q", "k", "v", "pattern", "z", "mlp_out", "attn_out"])
def test_no_idea_is_needed(config_name, name):
    model, clean = prepared(CONFIGS[config_name])
    none = replace(ALL, **{field.name: False for field in fields(ALL)})
    arguments = (model, CORRUPTED, clean, MIDDLE, SITES[name], name, indices_of(name))
    torch.testing.assert_close(swept(*arguments), swept(*arguments, shortcuts=none), **CLOSE)


def descent_of(model, clean, name, metric_reads, setter=None):
    sites = Sites(name, setter or SITES[name], clean)
    return Descent(CorruptedRun(model, CORRUPTED), sites, metric_reads, ALL)


@pytest.mark.parametrize("lazy", [False, True])
def test_patches_before_the_prompts_part_are_skipped_whatever_kind_of_cache_is_clean(lazy):
    _, model = pair(LLAMA_LIKE | dict(d_model=64, n_heads=4, d_head=16, rotary_dim=16, n_layers=3))
    _, clean = model.run_with_cache(CLEAN, lazy=lazy)
    descent = descent_of(model, clean, "resid_pre", range(7))
    found = [pos for pos in range(7) if descent.patch(0, (2, pos)) is not None]
    assert found == [3, 4, 5, 6]
    assert [descent.patch(0, (0, pos)) is not None for pos in range(7)] == [pos == 3 for pos in range(7)]


def test_a_clean_cache_that_was_changed_is_not_taken_for_the_clean_run():
    model, clean = prepared(GPT2_LIKE)
    clean.cache_dict["blocks.1.hook_resid_pre"] = clean["resid_pre", 1].clone()
    clean["resid_pre", 1][:, 1] += 1.0
    descent = descent_of(model, clean, "resid_pre", range(7))
    assert descent.patch(0, (1, 1)) is not None


def test_patches_that_no_reader_can_see_are_skipped():
    model, clean = prepared(GPT2_LIKE)
    descent = descent_of(model, clean, "z", range(4, 5))
    seen = {(layer, pos) for layer in range(2) for pos in range(7) if descent.patch(0, (layer, pos, 0)) is not None}
    assert seen == {(0, 3), (0, 4), (1, 4)}
    values = descent_of(model, clean, "v", range(4, 5))
    assert values.patch(0, (1, 3, 0)) is not None and values.patch(0, (1, 5, 0)) is None


def test_a_patch_takes_along_only_positions_from_the_first_it_changes_to_the_last_that_is_read():
    model, clean = prepared(GPT2_LIKE)
    descent = descent_of(model, clean, "resid_pre", range(5, 6))
    patch = descent.patch(0, (0, 3))
    (strip,) = descent([patch])
    assert (strip.start, strip.stop, strip.x.shape) == (5, 6, (2, 1, 16))
    assert descent.memory(patch) < descent_of(model, clean, "resid_pre", range(7)).memory(patch)


def test_patches_of_all_layers_go_down_as_one_batch(monkeypatch):
    model, clean = prepared(GPT2_LIKE)
    rows = []
    forward = type(model.blocks[1].mlp).forward

    def counting(self, x):
        if self is model.blocks[1].mlp:
            rows.append(x.shape[0] * x.shape[1])
        return forward(self, x)

    monkeypatch.setattr(type(model.blocks[1].mlp), "forward", counting)
    run = CorruptedRun(model, CORRUPTED)
    run.entering(0)
    rows.clear()
    # Layer 0 differs at position 3 alone, layer 1 from there on: one and four runs of two examples, of each a row read.
    swept(model, run, clean, LOGIT_DIFF, setters.layer_pos_patch_setter, "resid_pre", indices_of("resid_pre"))
    assert rows == [2 * (1 + 4)]


def test_a_structured_metric_unembeds_nothing_but_what_it_reads(monkeypatch):
    model, clean = prepared(GPT2_LIKE)
    monkeypatch.setattr(type(model.unembed), "forward", lambda self, residual: pytest.fail("unembedded everything"))
    swept(model, CORRUPTED, clean, LOGIT_DIFF, setters.layer_pos_patch_setter, "resid_pre", indices_of("resid_pre"))


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("name", ["resid_pre", "v", "result"])
def test_any_batch_size_gives_the_same(name, batch_size):
    model, clean = prepared(LLAMA_LIKE | dict(n_key_value_heads=2))
    arguments = (model, CORRUPTED, clean, everywhere, SITES[name], name, indices_of(name))
    sizes = [len(places) for places, _ in sweep(*arguments, batch_size=batch_size)]
    assert sum(sizes) == len(indices_of(name))
    torch.testing.assert_close(swept(*arguments, batch_size=batch_size), naively(*arguments), **CLOSE)


# The plain way


def test_hooks_that_the_model_has_stay_in_force():
    model, clean = prepared(GPT2_LIKE)
    plain = swept(model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z", indices_of("z"))
    model.add_hook("blocks.1.hook_mlp_out", lambda activation, hook: activation.flip(0))  # mixes the batch
    model.add_hook("blocks.0.attn.hook_z", lambda activation, hook: 2 * activation)  # before the patch
    arguments = (model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z", indices_of("z"))
    values = swept(*arguments)
    torch.testing.assert_close(values, naively(*arguments), **CLOSE)
    assert not torch.allclose(values, plain)
    assert [len(point.fwd_hooks) for point in model.hook_dict.values()].count(1) == 2


class Doubled(torch.nn.Module):
    """Somebody's module: mixes positions, as no MLP of ours does."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(x) + x.mean(1, keepdim=True)


def test_somebody_elses_modules_are_run_as_they_are():
    model, clean = prepared(GPT2_LIKE)
    model.blocks[1].mlp = Doubled(model.blocks[1].mlp)
    assert not can_be_taken_apart(model)
    arguments = (model, CORRUPTED, clean, LOGIT_DIFF, SITES["resid_pre"], "resid_pre", indices_of("resid_pre"))
    torch.testing.assert_close(swept(*arguments), naively(*arguments), **CLOSE)


# Prompts


@pytest.mark.parametrize(
    "config_name", ["gpt2-like", "llama-like grouped", "alibi", "shortformer", "local attention", "soft caps"]
)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["resid_pre", "q", "k", "v", "pattern", "z", "attn_scores"])
def test_padded_batches(config_name, padding, name):
    model, _ = prepared(CONFIGS[config_name])
    mask = torch.ones_like(CLEAN)
    mask[0, slice(0, 2) if padding == "left" else slice(5, 7)] = 0
    _, clean = model.run_with_cache(CLEAN, attention_mask=mask)
    metric = patching.LogitDiff(5, 6, pos=-1 if padding == "left" else [4, 6])
    run = CorruptedRun(model, CORRUPTED, attention_mask=mask)
    for each in (metric, everywhere):
        arguments = (clean, each, SITES[name], name, indices_of(name))
        expected = naively(model, CORRUPTED, *arguments, attention_mask=mask)
        torch.testing.assert_close(swept(model, run, *arguments), expected, **CLOSE)


def test_caches_made_under_inference_mode_serve():
    model, _ = prepared(GPT2_LIKE)
    with torch.inference_mode():
        _, clean = model.run_with_cache(CLEAN)
    _, ordinary = model.run_with_cache(CLEAN)
    for function in (patching.get_act_patch_resid_pre, patching.get_act_patch_attn_head_pattern_all_pos):
        values = function(model, CORRUPTED, clean, everywhere, progress=False)
        torch.testing.assert_close(values, function(model, CORRUPTED, ordinary, everywhere, progress=False))
        with torch.inference_mode():
            again = function(model, CORRUPTED, clean, everywhere, progress=False)
        torch.testing.assert_close(values, again)


def test_a_clean_prompt_of_its_own_serves_a_batch_and_a_dict_serves_as_cache():
    model, _ = prepared(GPT2_LIKE)
    _, clean = model.run_with_cache(CLEAN[:1])
    arguments = (everywhere, SITES["z"], "z", indices_of("z"))
    expected = naively(model, CORRUPTED, clean, *arguments)
    torch.testing.assert_close(swept(model, CORRUPTED, clean, *arguments), expected, **CLOSE)
    torch.testing.assert_close(swept(model, CORRUPTED, dict(clean), *arguments), expected, **CLOSE)


@pytest.mark.parametrize("config_name", ["gpt2-like", "llama-like grouped", "post-norms", "alibi", "soft caps"])
@pytest.mark.parametrize("name", SITES)
def test_in_double_precision_nothing_is_left_of_the_difference(config_name, name):
    _, model = pair(CONFIGS[config_name] | dict(dtype=torch.float64))
    optional = {each for each in model.hook_dict if each.endswith(("hook_result", "hook_q_input", "hook_mlp_in"))}
    _, clean = model.run_with_cache(CLEAN, names_filter=[*model.computed_points(), *optional])
    for metric in (MIDDLE, everywhere):
        arguments = (model, CORRUPTED, clean, metric, SITES[name], name, indices_of(name))
        torch.testing.assert_close(swept(*arguments), naively(*arguments), atol=1e-12, rtol=1e-10)
    values = patching.get_act_patch_resid_pre(model, CORRUPTED, clean, MIDDLE, progress=False)
    assert values.dtype == torch.float64


def test_in_half_precision_sweeps_stay_within_its_rounding():
    _, model = pair(LLAMA_LIKE | dict(n_key_value_heads=2, dtype=torch.bfloat16))
    _, exact = pair(LLAMA_LIKE | dict(n_key_value_heads=2))
    for name in ("resid_pre", "z", "v", "pattern"):
        values, expected = (
            swept(each, CORRUPTED, each.run_with_cache(CLEAN)[1], MIDDLE, SITES[name], name, indices_of(name))
            for each in (model, exact)
        )
        torch.testing.assert_close(values, expected, atol=0.05, rtol=0)


# Elsewhere


def shifted(corrupted, index, clean):
    corrupted[:, index[1]] += 1.0


@pytest.mark.parametrize("setter", [setters.layer_pos_patch_setter, shifted])
def test_threads_run_the_pieces_and_leave_the_model_as_it_was(setter):
    model, clean = prepared(GPT2_LIKE)
    arguments = (model, CORRUPTED, clean, LOGIT_DIFF, setter, "resid_mid", indices_of("resid_mid"))
    with ThreadPoolExecutor(3) as executor:
        values = swept(*arguments, executor=executor)
    torch.testing.assert_close(values, swept(*arguments), **CLOSE)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.slow
def test_processes_run_the_pieces():
    model, clean = prepared(GPT2_LIKE)
    arguments = (model, CORRUPTED, clean, LOGIT_DIFF, setters.layer_pos_head_vector_patch_setter, "v", indices_of("v"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        values = swept(*arguments, executor=executor)
    torch.testing.assert_close(values, swept(*arguments), **CLOSE)


def test_a_piece_is_data_and_carries_only_what_its_layers_need():
    model, clean = prepared(GPT2_LIKE)
    sites = Sites("z", SITES["z"], clean)
    whole = Piece.whole(CorruptedRun(model, CORRUPTED), sites, LOGIT_DIFF, indices_of("z"), Options())
    first, last = whole.cut(2)
    assert set(first.sites.clean) == {"blocks.0.attn.hook_z"} and set(last.sites.clean) == {"blocks.1.attn.hook_z"}
    again = pickle.loads(pickle.dumps(last))
    places, values = run_piece(again)
    assert sorted(places) == list(last.places)
    expected = naively(model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z", [indices_of("z")[p] for p in places])
    torch.testing.assert_close(values, expected, **CLOSE)
    assert CorruptedRun(again.model, again.tokens).parted_from(again.sites.clean) == 3


# Setters and indices of one's own


def test_a_setter_that_edits_in_place_or_returns_anew_or_does_nothing():
    model, clean = prepared(GPT2_LIKE)

    def in_place(corrupted, index, clean):
        corrupted[:, 2:5, index[1]] = 3 * clean[:, 1:4, index[1]]

    def anew(corrupted, index, clean):
        return torch.where(clean > index[1], clean, corrupted)

    def nothing(corrupted, index, clean):
        return corrupted.clone()

    indices = [(1, 0), (0, 1), (1, 1), (0, 0)]
    for setter in (in_place, anew, nothing):
        for name in ("z", "v", "mlp_post" if setter is not in_place else "k"):
            arguments = (model, CORRUPTED, clean, everywhere, setter, name, indices)
            torch.testing.assert_close(swept(*arguments), naively(*arguments), **CLOSE)


def test_indices_may_count_from_the_end():
    model, clean = prepared(GPT2_LIKE)
    arguments = (model, CORRUPTED, clean, everywhere, SITES["z"], "z", [(0, -1, 1), (1, -4, -2)])
    torch.testing.assert_close(swept(*arguments), naively(*arguments), **CLOSE)


def test_values_for_each_example_and_their_mean():
    model, clean = prepared(GPT2_LIKE)
    arguments = (model, CORRUPTED, clean, MIDDLE, SITES["z"], "z", indices_of("z"))
    mean = swept(*arguments)
    each = torch.zeros(len(mean), 2, dtype=torch.float64)
    for places, values in sweep(*arguments, per_example=True):
        each[places] = values
    torch.testing.assert_close(each.mean(1), mean)
    model.add_hook("hook_embed", lambda activation, hook: None)
    for places, values in sweep(*arguments, per_example=True):
        torch.testing.assert_close(each[places], values, **CLOSE)


def test_what_was_finished_before_an_interrupt_is_there():
    model, clean = prepared(GPT2_LIKE)
    running = sweep(model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z", indices_of("z"), batch_size=2)
    places, values = next(running)
    running.close()
    expected = naively(model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z", [indices_of("z")[p] for p in places])
    torch.testing.assert_close(values, expected, **CLOSE)


def test_a_prepared_run_serves_many_sweeps():
    model, clean = prepared(GPT2_LIKE)
    run = CorruptedRun(model, CORRUPTED)
    for function in (patching.get_act_patch_resid_pre, patching.get_act_patch_attn_head_v_all_pos):
        values = function(model, run, clean, everywhere, progress=False)
        torch.testing.assert_close(values, function(model, CORRUPTED, clean, everywhere, progress=False))


def test_masks_of_long_prompts_are_not_all_kept(monkeypatch):
    model, clean = prepared(GPT2_LIKE)
    monkeypatch.setattr("tl_widgets.patching.corrupted._MASK_CELLS", 30)
    run = CorruptedRun(model, CORRUPTED)
    arguments = (clean, everywhere, SITES["z"], "z", indices_of("z"))
    torch.testing.assert_close(swept(model, run, *arguments), naively(model, CORRUPTED, *arguments), **CLOSE)
    assert len(run._masks) <= 2


def test_every_door_leads_to_the_end_of_the_block():
    model = HookedTransformer(GPT2_LIKE)
    run = CorruptedRun(model, CORRUPTED)
    assert all(f"blocks.0.{point}" in model.hook_dict for point in DOORS)
    descent = Descent(run, Sites("z", SITES["z"], run.cache), range(7), ALL)
    assert descent.patch(0, (0, 0, 0)) is None  # a run patched with itself


# Errors


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(activation_name="resid_pree"), "resid_pre"),
        (dict(indices=[(2, 0)]), "no layer 2"),
        (dict(indices=[(0, 7)]), "no 7 on axis 1"),
        (dict(indices=[(0, 1, 2)]), r"\(layer, pos\)"),
        (dict(metric=lambda logits: logits[:, -1]), "one number"),
        (dict(metric=lambda logits: "much"), "one number, not str"),
        (dict(metric=patching.LogitDiff(5, 6, pos=7)), "outside prompts of 7"),
        (dict(metric=patching.LogitDiff([5, 5, 5], 6)), "3 entries for a batch of 2"),
        (dict(metric=patching.AnswerLogit(50)), "vocabulary of 50"),
        (dict(batch_size=0), "batch_size"),
        (dict(clean={}), "clean activation"),
        (dict(setter=lambda corrupted, index, clean: corrupted[:, :3]), "the corrupted activation"),
        (dict(metric=lambda logits: 0.0, per_example=True), "for each example"),
    ],
)
def test_bad_input_teaches_and_leaves_no_hook_behind(changes, message):
    model, clean = prepared(GPT2_LIKE)
    arguments = dict(
        model=model, corrupted=CORRUPTED, clean=clean, metric=LOGIT_DIFF, setter=SITES["resid_pre"],
        activation_name="resid_pre", indices=[(0, 3)],
    )  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        list(sweep(**arguments | changes))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_prompts_of_other_lengths_are_refused():
    model, _ = prepared(GPT2_LIKE)
    _, longer = model.run_with_cache(torch.cat([CLEAN, CLEAN[:, :1]], dim=1))
    with pytest.raises(BadInput, match="as many tokens"):
        patching.get_act_patch_resid_pre(model, CORRUPTED, longer, LOGIT_DIFF, progress=False)
    _, unbatched = model.run_with_cache(CLEAN[:1], remove_batch_dim=True)
    assert isinstance(unbatched, ActivationCache)
    with pytest.raises(BadInput, match="batch dimension"):
        patching.get_act_patch_resid_pre(model, CORRUPTED, unbatched, LOGIT_DIFF, progress=False)


def test_axes_are_checked():
    model, clean = prepared(GPT2_LIKE)
    sites = (model, CORRUPTED, clean, LOGIT_DIFF, SITES["z"], "z")
    with pytest.raises(KeyError, match="dest_pos"):
        patching.generic_activation_patch(*sites, index_axis_names=("layer", "destpos"))
    with pytest.raises(BadInput, match="first index axis"):
        patching.generic_activation_patch(*sites, index_axis_names=("pos", "layer"))
    with pytest.raises(BadInput, match="in their place"):
        patching.generic_activation_patch(*sites)
