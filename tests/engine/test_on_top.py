"""Small stand-ins for the packages that build on this API: the same change to the oracle and to ours, the same numbers.

Each does what its package does to a model; no fast path may overlook it.
"""

from __future__ import annotations

import copy

import pytest
import torch
import transformer_lens.hook_points
from torch import nn

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tl_widgets import HookedTransformer, HookPoint

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)
GROUPED = LLAMA_LIKE | dict(n_key_value_heads=2)
ARCHITECTURES = {
    name: CONFIGS[name]
    for name in ("gpt2-like", "gpt2-like folded", "llama-like grouped", "parallel, partial rotary", "post-norms")
}


def hook_point_of(model):
    return HookPoint if isinstance(model, HookedTransformer) else transformer_lens.hook_points.HookPoint


def put(model, path, module):
    """As SAELens and auto-circuit do: `setattr` on the parent, then `setup()`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    model.setup()


def same_everywhere(theirs, ours, tokens=TOKENS):
    """Logits watched or not, every activation, and the gradient of every parameter."""
    torch.testing.assert_close(ours(tokens), theirs(tokens), **CLOSE)
    logits, cache = ours.run_with_cache(tokens)
    their_logits, their_cache = theirs.run_with_cache(tokens)
    torch.testing.assert_close(logits, their_logits, **CLOSE)
    assert set(cache) == set(their_cache.keys())
    for name in cache:
        torch.testing.assert_close(cache[name], their_cache[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    same_gradients(theirs, ours, tokens)


def same_gradients(theirs, ours, tokens=TOKENS):
    for model in (theirs, ours):
        model.zero_grad()
        model(tokens, return_type="loss").backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        # An expert that no token is sent to: nothing here, zeros there.
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = torch.zeros_like(parameter) if expected[name] is None else expected[name]
        torch.testing.assert_close(grad, wanted, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_gradients_of_all_parameters(config):
    same_gradients(*pair(config))


# SAELens


class SAE(nn.Module):
    """Codes and decodes an activation, all heads at once, with hook points of its own."""

    def __init__(self, width, point):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.W_enc = nn.Parameter(torch.randn(width, 2 * width, generator=generator) / width**0.5)
        self.W_dec = nn.Parameter(torch.randn(2 * width, width, generator=generator) / width**0.5)
        self.hook_sae_input, self.hook_sae_acts_post, self.hook_sae_output = point(), point(), point()

    def forward(self, x):
        coded = self.hook_sae_acts_post(torch.relu(self.hook_sae_input(x.flatten(2)) @ self.W_enc))
        return self.hook_sae_output((coded @ self.W_dec).view_as(x))


@pytest.mark.parametrize("point", ["hook_resid_post", "hook_resid_pre", "hook_mlp_out", "attn.hook_z", "mlp.hook_post"])
@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_an_sae_spliced_in_for_a_hook_point(config, point):
    theirs, ours = pair(config)
    path = f"blocks.1.{point}"
    width = ours.run_with_cache(TOKENS, names_filter=path)[1][path].flatten(2).shape[-1]
    plain, before = ours(TOKENS), list(ours.hook_dict)
    for model in (theirs, ours):
        model.__dict__["original"] = model.get_submodule(path)  # not a submodule: SAELens puts it back later
        put(model, path, SAE(width, hook_point_of(model)))
    assert path not in ours.hook_dict and f"{path}.hook_sae_acts_post" in ours.hook_dict
    same_everywhere(theirs, ours)

    edited = [
        model.run_with_hooks(TOKENS, fwd_hooks=[(f"{path}.hook_sae_acts_post", lambda x, hook: x * (x > 1))])
        for model in (theirs, ours)
    ]
    torch.testing.assert_close(edited[1], edited[0], **CLOSE)
    original = ours.__dict__.pop("original")

    put(ours, path, original)
    assert list(ours.hook_dict) == before
    torch.testing.assert_close(ours(TOKENS), plain)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_a_hook_point_put_before_the_mlp_by_assigning_its_forward(config):
    theirs, ours = pair(config)
    for model in (theirs, ours):
        for block in model.blocks:
            block.mlp.hook_in = hook_point_of(model)()
            block.mlp.forward = lambda x, mlp=block.mlp, forward=block.mlp.forward: forward(mlp.hook_in(x))
        model.setup()
    same_everywhere(theirs, ours)
    halved = [
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.mlp.hook_in", lambda x, hook: x / 2)])
        for model in (theirs, ours)
    ]
    torch.testing.assert_close(halved[1], halved[0], **CLOSE)


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def assign_a_forward_that_works_in_place(model):
    mlp = model.blocks[0].mlp
    mlp.forward = lambda x, forward=mlp.forward: forward(x.mul_(2))


REPLACEMENTS_IN_PLACE = {
    "a module of somebody's": lambda model: put(model, "blocks.0.mlp", InPlace()),
    "torch's own": lambda model: put(model, "blocks.0.mlp", nn.Sequential(nn.ReLU(inplace=True))),
    "a forward": assign_a_forward_that_works_in_place,
}


@pytest.mark.parametrize("replace", REPLACEMENTS_IN_PLACE.values(), ids=REPLACEMENTS_IN_PLACE.keys())
def test_the_cache_is_safe_from_replacements_that_work_in_place(replace):
    _, model = pair(CONFIGS["gpt2-like folded"])  # its norms hand on what their hook points saw
    _, expected = model.run_with_cache(TOKENS)
    replace(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["normalized", 0, "ln2"], expected["normalized", 0, "ln2"])


# circuit-tracer


class WatchedMLP(nn.Module):
    def __init__(self, mlp, point):
        super().__init__()
        self.old_mlp, self.hook_in, self.hook_out = mlp, point(), point()

    def forward(self, x):
        return self.hook_out(self.old_mlp(self.hook_in(x)))


class WatchedUnembed(nn.Module):
    def __init__(self, unembed, point):
        super().__init__()
        self.old_unembed, self.hook_pre, self.hook_post = unembed, point(), point()

    W_U = property(lambda self: self.old_unembed.W_U)
    b_U = property(lambda self: self.old_unembed.b_U)

    def forward(self, x):
        return self.hook_post(self.old_unembed(self.hook_pre(x)))


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_a_replacement_model_with_gradients_that_flow_along_chosen_paths(config):
    theirs, ours = pair(config)
    gradients, logits = [], []
    for model in (theirs, ours):
        point = hook_point_of(model)
        for block in model.blocks:
            block.mlp = WatchedMLP(block.mlp, point)
            block.hook_mlp_out.hook_out_grad = point()  # a point inside a point
        model.unembed = WatchedUnembed(model.unembed, point)
        model.setup()
        for parameter in model.parameters():
            parameter.requires_grad = False
        for name in model.hook_dict:
            if name.endswith(("hook_pattern", "hook_scale")):
                model.add_hook(name, lambda x, hook: x.detach(), is_permanent=True)

        stored = {}
        for layer, block in enumerate(model.blocks):

            def keep(x, hook, layer=layer, stored=stored):
                stored[layer] = x

            def skip(x, hook, layer=layer, stored=stored, block=block):
                passed_by = stored.pop(layer) * 0.5
                return block.hook_mlp_out.hook_out_grad(passed_by + (x - passed_by).detach())

            block.mlp.hook_in.add_hook(keep, is_permanent=True)
            block.hook_mlp_out.add_hook(skip, is_permanent=True)
        model.hook_embed.add_hook(lambda x, hook: x.requires_grad_(), is_permanent=True)
        model.reset_hooks()  # permanent ones stay
        seen = {}
        names = [name for name in model.hook_dict if name.endswith(("hook_resid_pre", "hook_out_grad", "hook_pre"))]

        def see(grad, hook, seen=seen):
            seen[hook.name] = grad.clone()

        with model.hooks(bwd_hooks=[(name, see) for name in names if "mlp.old" not in name]):
            out = model(TOKENS)
            out[:, -1, 3].sum().backward()
        gradients.append(seen)
        logits.append(out)
        assert model.W_U.shape == (16, 50)
    torch.testing.assert_close(logits[1], logits[0], **CLOSE)
    assert set(gradients[1]) == set(gradients[0]) and "unembed.hook_pre" in gradients[1]
    for name, grad in gradients[1].items():
        torch.testing.assert_close(grad, gradients[0][name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


# EAP-IG and ACDC


def set_flags(model, **flags):
    for flag, value in flags.items():
        setattr(model.cfg, flag, value)  # no setter: libraries write them


@pytest.mark.parametrize("config", [GPT2_LIKE, GROUPED, CONFIGS["post-norms"]], ids=["gpt2", "grouped", "post-norms"])
def test_edges_scored_by_gradients_at_split_inputs(config):
    theirs, ours = pair(config)
    scores = []
    for model in (theirs, ours):
        set_flags(model, use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)
        if config is GROUPED:
            set_flags(model, ungroup_grouped_query_attention=True)
        written, read = {}, {}

        def keep(x, hook, written=written):
            written[hook.name] = x.detach().clone()

        def take(grad, hook, read=read):
            read[hook.name] = grad.detach().clone()

        sources = ["hook_embed", *(f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.hook_result", "hook_mlp_out"))]
        targets = [
            f"blocks.{i}.{name}" for i in (0, 1) for name in ("hook_q_input", "hook_k_input", "hook_v_input")
        ] + [f"blocks.{i}.hook_mlp_in" for i in (0, 1)]
        with model.hooks([(name, keep) for name in sources], [(name, take) for name in targets]):
            model(TOKENS, return_type="loss").backward()
        scores.append({**written, **read})
        model.reset_hooks()
    assert set(scores[1]) == set(scores[0]) == {*sources, *targets}
    for name, value in scores[1].items():
        assert value.shape == scores[0][name].shape
        torch.testing.assert_close(value, scores[0][name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def test_hooks_at_points_in_hand_that_keep_things_in_ctx():
    theirs, ours = pair(GPT2_LIKE)
    outputs = []
    for model in (theirs, ours):
        set_flags(model, use_attn_result=True, use_split_qkv_input=True)

        def remember(x, hook):
            hook.ctx["mean"] = x.mean(0, keepdim=True)
            return x

        def restore(x, hook):
            x[:, :, 1] = hook.ctx["mean"][:, :, 1]
            return x

        for point in model.hook_dict.values():
            if point.name.endswith("hook_result"):
                point.add_hook(remember)
                assert point.has_hooks() and len(point.fwd_hooks) == 1
        model(TOKENS)
        for name in model.hook_dict:
            if name.endswith("hook_result"):
                model.mod_dict[name].remove_hooks("fwd")
                assert not model.hook_dict[name].has_hooks(including_permanent=True)
                model.add_hook(name, restore)
        outputs.append(model(TOKENS))
        model.reset_hooks()
        assert not any(point.has_hooks() for point in model.hook_points())
    torch.testing.assert_close(outputs[1], outputs[0], **CLOSE)


# auto-circuit


class Wrapper(nn.Module):
    """Passes on whatever it is called with, and scales what comes back."""

    def __init__(self, module):
        super().__init__()
        self.module, self.keywords = module, []

    def forward(self, *args, **kwargs):
        self.keywords.append(set(kwargs))
        return 0.5 * self.module(*args, **kwargs)


@pytest.mark.parametrize(
    "path",
    [
        "embed", "pos_embed", "hook_embed", "blocks.1", "blocks.0.ln1", "blocks.0.ln1.hook_scale", "blocks.1.attn",
        "blocks.0.attn.hook_q", "blocks.0.attn.hook_v", "blocks.0.attn.hook_attn_scores", "blocks.1.attn.hook_pattern",
        "blocks.1.attn.hook_z", "blocks.0.hook_attn_out", "blocks.0.ln2.hook_normalized", "blocks.0.mlp",
        "blocks.1.mlp.hook_pre", "ln_final", "ln_final.hook_scale", "unembed",
    ],
)  # fmt: skip
def test_any_module_can_be_wrapped(path):
    theirs, ours = pair(GPT2_LIKE)
    for model in (theirs, ours):
        put(model, path, Wrapper(model.get_submodule(path)))
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS), **CLOSE)
    same_gradients(theirs, ours)
    assert ours.get_submodule(path).keywords[0] <= theirs.get_submodule(path).keywords[0]


@pytest.mark.parametrize("point", ["hook_q_input", "hook_v_input", "hook_mlp_in", "attn.hook_result"])
def test_an_optional_point_can_be_wrapped_with_its_flag_on_or_off(point):
    theirs, ours = pair(GPT2_LIKE)
    set_flags(theirs, use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)
    for model in (theirs, ours):
        put(model, f"blocks.1.{point}", Wrapper(model.get_submodule(f"blocks.1.{point}")))
    expected = theirs(TOKENS)
    torch.testing.assert_close(ours(TOKENS), expected, **CLOSE)
    set_flags(ours, use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)
    torch.testing.assert_close(ours(TOKENS), expected, **CLOSE)


def test_the_forward_of_a_hook_point_can_be_assigned():
    for point in ("attn.hook_pattern", "attn.hook_attn_scores", "ln1.hook_scale", "attn.hook_z"):
        theirs, ours = pair(GPT2_LIKE)
        for model in (theirs, ours):
            module = model.get_submodule(f"blocks.0.{point}")
            module.forward = lambda x, forward=module.forward: 0.5 * forward(x)
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS), **CLOSE, msg=lambda m, p=point: f"{p}: {m}")


# SAEDashboard and tuned-lens


def test_caching_hooks_in_every_form():
    theirs, ours = pair(GPT2_LIKE)
    names = ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]
    caches = []
    for model in (theirs, ours):
        everything, some = {}, {}
        model.cache_all(everything)
        model(TOKENS)
        model.reset_hooks()
        model.cache_some(some, lambda name: name in names)
        model(TOKENS)
        model.reset_hooks()
        cache, fwd, bwd = model.get_caching_hooks(lambda name: name in names, incl_bwd=True)
        with model.hooks(fwd, bwd):
            model(TOKENS, return_type="loss").backward()
        assert not any(point.has_hooks() for point in model.hook_points())
        caches.append((everything, some, cache))
    for mine, other in zip(caches[1], caches[0], strict=True):
        assert set(mine) == set(other)
        for name, value in mine.items():
            if "ln1" not in name or not name.endswith("_grad"):
                torch.testing.assert_close(value, other[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    assert set(caches[1][2]) == {*names, *(f"{name}_grad" for name in names)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_run_that_goes_on_from_the_embedding(config):
    _, model = pair(config)
    mask = torch.ones_like(TOKENS)
    mask[1, :3] = 0
    for given in (None, mask):
        residual, tokens, pos_embed, found = model.input_to_embed(TOKENS, attention_mask=given)
        resumed = model(
            residual, start_at_layer=0, tokens=tokens, attention_mask=found, shortformer_pos_embed=pos_embed
        )
        torch.testing.assert_close(resumed, model(TOKENS, attention_mask=given), **CLOSE)


def test_a_lens_made_of_copied_parts():
    theirs, ours = pair(GPT2_LIKE)
    lenses = []
    for model in (theirs, ours):
        norm, unembed = copy.deepcopy(model.ln_final), nn.Linear(16, 50)
        unembed.load_state_dict({"weight": model.unembed.W_U.data.T, "bias": model.unembed.b_U.data})
        _, cache = model.run_with_cache(TOKENS)
        assert cache.model is model and cache.has_batch_dim and set(cache.cache_dict) == set(cache)
        lenses.append(unembed(norm(cache["blocks.0.hook_resid_post"])))
    torch.testing.assert_close(lenses[1], lenses[0], **CLOSE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_parts_can_be_called_on_their_own(config):
    theirs, ours = pair(config)
    x = torch.randn(2, 10, 16)
    parts = [(ours.embed(TOKENS), theirs.embed(TOKENS))]
    if config.get("positional_embedding_type", "standard") == "standard":
        parts.append((ours.pos_embed(TOKENS), theirs.pos_embed(TOKENS)))
        parts.append((ours.pos_embed(TOKENS, 3), theirs.pos_embed(TOKENS, 3)))
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        parts.append((mine(x), other(x)))
        if not (config.get("use_split_qkv_input") or config.get("use_attn_in")):
            inputs = dict(query_input=x, key_input=x, value_input=x)
            parts.append((mine.attn(**inputs), other.attn(**inputs)))
        if not config.get("attn_only"):
            parts.append((mine.mlp(mine.ln2(x)), other.mlp(other.ln2(x))))
    for mine, other in parts:
        torch.testing.assert_close(mine, other, **CLOSE)


@pytest.mark.parametrize("config", [CONFIGS["llama-like grouped"], CONFIGS["another base in local layers"]])
def test_rotary_tables_are_the_fields(config):
    theirs, ours = pair(config)
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        for table in ("rotary_sin", "rotary_cos"):
            torch.testing.assert_close(getattr(mine.attn, table), getattr(other.attn, table))


def test_weights_go_both_ways():
    theirs, ours = pair(GPT2_LIKE)
    twin = HookedTransformer(GPT2_LIKE | dict(seed=7))
    assert not twin.load_state_dict(theirs.state_dict()).missing_keys
    torch.testing.assert_close(twin(TOKENS), theirs(TOKENS), **CLOSE)
    fresh, _ = pair(GPT2_LIKE | dict(seed=9))
    result = fresh.load_state_dict(ours.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith((".mask", ".IGNORE")) for name in result.missing_keys)  # which are no weights
    torch.testing.assert_close(fresh(TOKENS), ours(TOKENS), **CLOSE)
