"""Patching pairs: sweeps, ablations, joint patches, estimates and paths, each beside what it means written out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, SMALL
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer, patching
from tl_widgets.patching import AnswerProb, LogitDiff, PatchingPair, attribution_patch, path_patch

CLEAN = torch.tensor([[3, 1, 4, 1, 5, 9]])
CORRUPTED = torch.tensor([[3, 1, 7, 1, 5, 9]])
KINDS = ["gpt2-like", "llama-like grouped", "parallel, partial rotary", "attention only", "post-norms", "alibi"]


def build(config=GPT2_LIKE, **changes):
    torch.manual_seed(5)
    model = HookedTransformer(dict(config) | changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def pair_of(model, clean=CLEAN, corrupted=CORRUPTED, **options):
    return PatchingPair(model, clean, corrupted, answer=7, wrong=8, progress=False, **options)


def written_out(pair, name, put_in, direction="denoise"):
    """Normalised metric of a run with one hook, the plain way."""
    into = pair.corrupted if direction == "denoise" else pair.clean
    with torch.no_grad():
        logits = pair.model.run_with_hooks(into.tokens, fwd_hooks=[(name, lambda x, hook: put_in(x.clone()))])
        values = [pair.metric(each).item() for each in (logits, pair.corrupted.logits, pair.clean.logits)]
    return (values[0] - values[1]) / (values[2] - values[1])


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def pair(model):
    return pair_of(model)


# Sweeps


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_sweep_is_one_run_for_each_place(name, direction):
    model = build(CONFIGS[name])
    pair = pair_of(model)
    source = pair.clean if direction == "denoise" else pair.corrupted

    def at(*places):
        def put_in(x):
            for place in places:
                x[place] = source.cache[full][place]
            return x

        return put_in

    every = slice(None)
    heads = pair.patch("z", direction=direction)
    assert heads.axes == ("layer", "head")
    full = "blocks.1.attn.hook_z"
    assert heads["L1H2"] == pytest.approx(written_out(pair, full, at((every, every, 2)), direction), abs=1e-4)
    full = "blocks.0.attn.hook_v"
    values = pair.patch("v", by=("head", "pos", "layer"), direction=direction)
    assert values.axes == ("layer", "pos", "head")
    assert values[0, 3, 1] == pytest.approx(written_out(pair, full, at((every, 3, 1)), direction), abs=1e-4)
    full = "blocks.1.attn.hook_pattern"
    patterns = pair.patch("pattern", by=("layer", "head", "dest_pos", "src_pos"), direction=direction)
    assert patterns[1, 3, 5, 2] == pytest.approx(written_out(pair, full, at((every, 3, 5, 2)), direction), abs=1e-4)
    full = "blocks.1.hook_attn_out"
    layers = pair.patch("attn_out", by="layer", direction=direction)
    assert layers["L1"] == pytest.approx(written_out(pair, full, at(every), direction), abs=1e-4)


def test_all_of_one_run_in_the_other_is_that_run(pair):
    everything = pair.patch("resid_pre", by="layer")
    torch.testing.assert_close(everything.values, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        pair.patch("resid_pre", by="layer", direction="noise").values,
        torch.zeros(2, dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )
    assert pair.patch("resid_pre").axes == ("layer", "pos")
    before = pair.patch("resid_pre").values[:, :2]  # where the prompts are still the same
    torch.testing.assert_close(before, torch.zeros_like(before), atol=1e-6, rtol=0)


def test_sweeps_are_those_of_the_field(pair, model):
    field = patching.get_act_patch_resid_pre(model, CORRUPTED, pair.clean.cache, LogitDiff(7, 8), progress=False)
    ours = pair.patch("resid_pre", normalised=False)
    torch.testing.assert_close(ours.values, field.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.normal().values, pair.patch("resid_pre").values)
    torch.testing.assert_close(ours.normal().raw().values, ours.values)


def test_several_kinds_beside_each_other():
    pair = pair_of(build(CONFIGS["llama-like grouped"]))
    heads = pair.patch("head_all")
    assert heads.axes == ("kind", "layer", "head") and heads.labels_of("kind") == ["z", "q", "k", "v", "pattern"]
    torch.testing.assert_close(heads["q"].values, pair.patch("q").values)
    assert heads["k"].values[:, 2:].isnan().all() and heads.n_missing == 0  # two key/value heads
    blocks = pair.patch("block_all")
    torch.testing.assert_close(blocks["mlp_out"].values, pair.patch("mlp_out").values)
    assert [place for place, _ in blocks.where(3)] == [label.split()[0] for label, _ in blocks.top(3)]


def test_another_metric_and_any_callable(pair):
    probability = pair.patch("z", metric=AnswerProb(7), normalised=False)
    assert ((probability.values > 0) & (probability.values < 1)).all()
    anything = pair.patch("z", metric=lambda logits: logits[0, -1, 7] - logits[0, -1, 8])
    torch.testing.assert_close(anything.values, pair.patch("z").values, atol=1e-5, rtol=1e-4)


def test_an_executor_runs_the_pieces(pair):
    whole, ablated = pair.patch("z"), pair.ablate("z")
    with ThreadPoolExecutor(2) as executor:
        torch.testing.assert_close(pair.patch("z", executor=executor).values, whole.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(pair.ablate("z", executor=executor).values, ablated.values, atol=1e-5, rtol=0)


def test_ablations(pair):
    zero = pair.ablate("z", by=("layer", "head"))

    def silence(z):
        z[:, :, 2] = 0
        return z

    def average(z):
        z[:, 3] = z.mean(1)
        return z

    assert zero["L1H2"] == pytest.approx(written_out(pair, "blocks.1.attn.hook_z", silence, "noise"), abs=1e-4)
    mean = pair.ablate("mlp_out", value="mean")
    assert mean[0, 3] == pytest.approx(written_out(pair, "blocks.0.hook_mlp_out", average, "noise"), abs=1e-4)


# Several pairs


PROMPTS = (["w04 w05 w06", "w07 w08 w09 w10", "w11 w12"], ["w04 w15 w06", "w17 w08 w09 w10", "w11 w16"])


@pytest.fixture(scope="module", params=["right", "left"])
def several(request):
    model = HookedTransformer(GPT2_LIKE, tokenizer=fifty_words(), default_padding_side=request.param)
    return PatchingPair(model, *PROMPTS, answer=["w20", "w21", "w22"], wrong="w23", progress=False)


def test_lists_are_as_many_pairs(several):
    result = several.patch("z", normalised=False)
    assert result.per_example.shape == (2, 4, 3)
    for i, answer in enumerate(["w20", "w21", "w22"]):
        one = PatchingPair(several.model, PROMPTS[0][i], PROMPTS[1][i], answer=answer, wrong="w23", progress=False)
        torch.testing.assert_close(
            one.patch("z", normalised=False).values, result.per_example[..., i], atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(result.values, result.per_example.mean(-1))


def test_intervals(several):
    result = several.patch("z")
    interval = result.interval(0.9)
    torch.testing.assert_close(interval.mean.values, result.values.float(), atol=1e-5, rtol=1e-4)
    difference = several.baselines.difference
    expected = result.per_example - several.baselines.corrupted
    torch.testing.assert_close(
        interval.standard_error.values.double(), (expected / difference).std(-1) / 3**0.5, atol=1e-5, rtol=1e-4
    )
    assert (interval.low.values <= interval.mean.values + 1e-6).all()
    assert (interval.mean.values <= interval.high.values + 1e-6).all()
    assert result.interval(0.5).high["L0H0"] <= interval.high["L0H0"]
    assert torch.equal(result.interval(0.9).low.values, interval.low.values)  # repeatable


def test_one_pair_has_no_interval(pair):
    with pytest.raises(ValueError, match="One pair alone"):
        pair.patch("z").interval()


# Together


def test_a_joint_patch(pair):
    single = pair.patch("z")
    one = pair.patch_many([("z", {"layer": 1, "head": 2})])
    assert one.values.item() == pytest.approx(single["L1H2"], abs=1e-5)
    whole = pair.patch_many([("resid_pre", {"layer": 0, "pos": pos}) for pos in range(6)])
    assert whole.values.item() == pytest.approx(1, abs=1e-5)
    last = pair.patch_many([("z", {"layer": 1, "head": head}) for head in range(4)], normalised=False)
    at_once = pair.patch("z", by="layer", normalised=False)
    assert last.values.item() == pytest.approx(at_once["L1"], abs=1e-5)
    best = single.where(2)
    assert pair.patch_many(best).values.shape == () and best[0] == ("z", single.where(1)[0][1])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pair: pair.patch("zz"), "Did you mean 'z'"),
        (lambda pair: pair.patch("z", by=("layer", "neuron")), r"by \('layer', 'head'\) or"),
        (lambda pair: pair.patch("z", direction="denoising"), "'denoise'"),
        (lambda pair: pair.ablate("z", value="means"), "'mean'"),
        (lambda pair: pair.ablate("pattern", value="mean"), "mean over positions"),
        (lambda pair: pair.patch_many([]), "at least one place"),
        (lambda pair: pair.patch_many([("z", {"layer": 1, "head": 4})]), "no head 4"),
        (lambda pair: pair.patch_many([("z", {"layer": 2, "head": 0})]), "no layer 2"),
        (lambda pair: PatchingPair(pair.model, CLEAN, CORRUPTED), "Say what to measure"),
        (lambda pair: PatchingPair(pair.model, CLEAN, CORRUPTED[:, :5], answer=7), "one length"),
        (lambda pair: PatchingPair(pair.model, CLEAN, CORRUPTED.repeat(2, 1), answer=7), "1 clean prompts and 2"),
        (lambda pair: PatchingPair(pair.model, CLEAN, CORRUPTED, answer=[7, 8]), "answer has 2 tokens for 1 pairs"),
        (lambda pair: attribution_patch(pair, "z", steps=0), "steps"),
        (lambda pair: path_patch(pair, "q"), "'z'"),
        (lambda pair: path_patch(pair, "z", ("p", {"layer": 1})), "receiver"),
        (lambda pair: path_patch(pair, "z", ("q", {"layer": 1})), "is told by"),
        (lambda pair: path_patch(pair, "z", ("q", {"layer": 1, "head": 9})), "no head 9"),
        (lambda pair: path_patch(pair, "z", through=[("q", {"layer": 1, "head": 0})]), "component to go through"),
    ],
)
def test_errors_say_what_is_allowed(pair, call, message):
    with pytest.raises((ValueError, KeyError), match=message):
        call(pair)


def test_prompts_of_different_lengths_are_shown(several):
    with pytest.raises(ValueError, match=r"clean +\( 4\)  w01\|w04  >>>  w05\|w06") as error:
        PatchingPair(several.model, "w04 w05 w06", "w04 w06", answer="w20", progress=False)
    assert "corrupted ( 3)  w01|w04  >>>  w06" in str(error.value)


def test_metrics_that_coincide_are_no_scale(model):
    pair = pair_of(model, CLEAN, CLEAN)
    with pytest.raises(ValueError, match="nothing between them to normalise by"):
        pair.patch("z")
    raw = pair.patch("z", normalised=False)
    torch.testing.assert_close(raw.values, pair.baselines.clean.expand(2, 4), atol=1e-6, rtol=1e-6)


def test_an_interrupt_keeps_what_was_finished(pair, monkeypatch):
    from tl_widgets.patching import pair as module

    whole = pair.patch("z")

    def interrupted(*args, **kwargs):
        for n, finished in enumerate(module_sweep(*args, **kwargs)):
            if n == 2:
                raise KeyboardInterrupt
            yield finished

    module_sweep = module.sweep
    monkeypatch.setattr(module, "sweep", interrupted)
    with pytest.warns(UserWarning, match="Interrupted after 2 of 8 places"):
        part = pair.patch("z", batch_size=1)
    assert part.n_missing == 6 and "6 places are missing" in repr(part)
    there = ~part.values.isnan()
    torch.testing.assert_close(part.values[there], whole.values[there], atol=1e-5, rtol=0)
    assert not any(point.has_hooks() for point in pair.model.hook_points())


def test_hooks_of_the_model_stay_in_force(model):
    pair = pair_of(model)
    free = pair.patch("z")
    with model.hooks([("blocks.0.hook_mlp_out", lambda x, hook: x * 0)]):
        hooked_pair = pair_of(model)
        hooked = hooked_pair.patch("z")
        at = written_out(hooked_pair, "blocks.1.attn.hook_z", lambda z: _head(z, hooked_pair))
    assert hooked["L1H2"] == pytest.approx(at, abs=1e-4)
    assert not torch.allclose(hooked.values, free.values)


def _head(z, pair):
    z[:, :, 2] = pair.clean.cache["z", 1][:, :, 2]
    return z


def test_it_tells_and_draws_what_it_found(pair):
    assert "3 1 4 1 5 9" in repr(pair)
    result = pair.patch("z")
    assert "L" in repr(result) and "into the corrupted run" in repr(result)
    assert list(result.to_dataframe()) == ["layer", "head", result.quantity]
    result.plot()
    assert (result - pair.ablate("z")).values.shape == (2, 4)


def test_positions_are_called_by_both_prompts_tokens(several):
    pair = PatchingPair(several.model, PROMPTS[0][0], PROMPTS[1][0], answer="w20", progress=False)
    assert pair.patch("resid_pre", normalised=False).labels_of("pos") == ["w01", "w04", "w05/w15", "w06"]
    assert several.patch("resid_pre").labels_of("pos") == [str(i) for i in range(5)]


# Estimates


def test_an_estimate_is_exact_where_the_model_is_linear():
    model = build(GPT2_LIKE, normalization_type=None)
    pair = pair_of(model)
    for place in ("resid_post", "mlp_out"):
        estimated = attribution_patch(pair, place, normalised=False).values
        measured = pair.patch(place, normalised=False).values
        torch.testing.assert_close(estimated[-1], measured[-1], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "place, by", [("z", ("layer", "pos", "head")), ("pattern", None), ("k", None), ("resid_pre", None)]
)
@pytest.mark.parametrize("name", ["gpt2-like", "llama-like grouped"])
def test_an_estimate_is_the_slope(name, place, by):
    model = build(CONFIGS[name]).double()
    pair = pair_of(model)
    estimated = attribution_patch(pair, place, by, normalised=False)
    # A thousandth of the way into each place, measured.
    _, setter = patching.places.setter_of(place, by)
    source = {
        full: run + 1e-4 * (pair.clean.cache[full] - run).nan_to_num(nan=0)
        for full, run in (
            (f"blocks.{layer}.{_point(place)}", pair.corrupted.cache[f"blocks.{layer}.{_point(place)}"])
            for layer in (0, 1)
        )
    }
    indices = [
        tuple(int(i) for i in torch.unravel_index(torch.tensor(j), estimated.values.shape))
        for j in range(estimated.values.numel())
    ]
    found = patching.sweep(model, pair.corrupted, source, pair.metric, setter, place, indices)
    small = torch.zeros(len(indices), dtype=torch.float64)
    for places, values in found:
        small[places] = values
    slope = (small - pair.baselines.corrupted) / 1e-4
    torch.testing.assert_close((estimated.values - pair.baselines.corrupted).flatten(), slope, atol=1e-2, rtol=1e-2)


def _point(place):
    return f"attn.hook_{place}" if place in ("z", "q", "k", "v", "pattern") else f"hook_{place}"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_estimates_are_verified(pair, direction):
    estimate = attribution_patch(pair, "z", direction=direction)
    assert "estimated from one gradient" in repr(estimate)
    table = estimate.verify(3)
    exact = pair.patch("z", direction=direction)
    for label in table.labels_of("place"):
        assert table[label, "measured"] == pytest.approx(exact[label], abs=1e-5)
        assert table[label, "estimated"] == pytest.approx(estimate[label], abs=1e-5)
    assert all(parameter.requires_grad for parameter in pair.model.parameters())
    assert not any(point.has_hooks() for point in pair.model.hook_points())


def test_more_steps_come_nearer_on_the_whole(pair):
    exact = pair.patch("resid_pre", by="layer").values[0]
    one = attribution_patch(pair, "resid_pre", by="layer").values[0]
    many = attribution_patch(pair, "resid_pre", by="layer", steps=20).values[0]
    assert (many - exact).abs() < (one - exact).abs()
    assert many.item() == pytest.approx(exact.item(), abs=0.02)  # the integral of the slope is the change


# Paths


@pytest.mark.parametrize("name", KINDS)
def test_through_everything_a_path_is_a_patch(name):
    model = build(CONFIGS[name])
    pair = pair_of(model)
    everything = [("z", {"layer": layer, "head": head}) for layer in (0, 1) for head in range(4)]
    if not model.cfg.attn_only:
        everything += [("mlp_out", {"layer": layer}) for layer in (0, 1)]
    paths = path_patch(pair, "z", through=everything)
    torch.testing.assert_close(paths.values, pair.patch("z").values, atol=1e-4, rtol=1e-4)


def test_the_direct_path_to_the_logits_written_out():
    model = build(SMALL, attn_only=True, normalization_type=None)
    pair = pair_of(model)
    paths = path_patch(pair, "z", normalised=False)
    change = pair.clean.cache["z", 0] - pair.corrupted.cache["z", 0]
    written = torch.einsum("bphd,hdm->bphm", change, model.blocks[0].attn.W_O)[:, -1]
    direction = model.W_U[:, 7] - model.W_U[:, 8]
    expected = pair.baselines.corrupted + (written @ direction)[0].detach().double()
    torch.testing.assert_close(paths.values[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_the_path_to_a_head_written_out(kind):
    model = build(SMALL, attn_only=True, normalization_type=None)
    pair = pair_of(model)
    paths = path_patch(pair, "z", (kind, {"layer": 1, "head": 3}))
    change = pair.clean.cache["z", 0] - pair.corrupted.cache["z", 0]
    for head in range(4):
        written = change[:, :, head] @ model.blocks[0].attn.W_O[head]
        arrives = written @ getattr(model.blocks[1].attn, f"W_{kind.upper()}")[3]

        def add(x, arrives=arrives):
            x[:, :, 3] += arrives
            return x

        expected = written_out(pair, f"blocks.1.attn.hook_{kind}", add)
        assert paths[0, head] == pytest.approx(expected, abs=1e-4)
        assert paths[1, head] == pytest.approx(0, abs=1e-6)  # what comes after the receiver does not reach it


def test_paths_to_mlps_and_from_mlps(model, pair):
    whole = pair.patch("attn_out", by="layer")
    direct = path_patch(pair, "attn_out", by="layer")
    to_mlps = path_patch(pair, "attn_out", [("mlp_in", {"layer": layer}) for layer in (0, 1)], by="layer")
    assert 0 != to_mlps["L0"] != whole["L0"] and direct["L1"] != whole["L1"]
    last = path_patch(pair, "mlp_out", by="layer")
    assert last["L1"] == pytest.approx(pair.patch("mlp_out", by="layer")["L1"], abs=1e-5)  # nothing comes after it


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_how_many_go_together_makes_no_difference(pair, batch_size):
    receivers = [("q", {"layer": 1, "head": 0}), ("v", {"layer": 1, "head": 2})]
    torch.testing.assert_close(
        path_patch(pair, "z", receivers, batch_size=batch_size).values, path_patch(pair, "z", receivers).values
    )
