"""Hooks: what they see and change, and that none outlives the call that set it."""

from __future__ import annotations

import pytest
import torch
import transformer_lens

from tests.engine.oracle import GPT2_LIKE, LLAMA_LIKE, pair
from tl_widgets import HookedRootModule, HookedTransformer, HookPoint

TOKENS = torch.arange(10)[None]


@pytest.fixture
def model():
    return HookedTransformer(GPT2_LIKE)


def hooks_left(model):
    return [name for name, point in model.hook_dict.items() if point.has_hooks()]


def test_a_returned_tensor_replaces_and_an_edit_in_place_counts(model):
    plain = model(TOKENS)
    zero = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: torch.zeros_like(x))])
    in_place = model.run_with_hooks(
        TOKENS, fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: x.zero_().sum() and None)]
    )
    assert not torch.allclose(plain, zero)
    torch.testing.assert_close(zero, in_place)
    torch.testing.assert_close(model(TOKENS), plain)


def run_under_hooks(model, hooks):
    with model.hooks(fwd_hooks=hooks):
        model(TOKENS)


def cache_under_hooks(model, hooks):
    with model.hooks(fwd_hooks=hooks):
        model.run_with_cache(TOKENS)


def run_with_hooks(model, hooks):
    model.run_with_hooks(TOKENS, fwd_hooks=hooks)


@pytest.mark.parametrize("run", [run_with_hooks, run_under_hooks, cache_under_hooks])
def test_a_hook_that_raises_leaves_no_hook_behind(model, run):
    def fails(activation, hook):
        raise RuntimeError(f"at {hook.name}")

    with pytest.raises(RuntimeError, match=r"at blocks\.1\.attn\.hook_q"):
        run(model, [("blocks.0.hook_resid_mid", lambda x, hook: None), ("blocks.1.attn.hook_q", fails)])
    assert hooks_left(model) == []
    assert model.context_level == 0


def test_a_misspelt_name_among_good_ones_leaves_no_hook_behind(model):
    with pytest.raises(KeyError, match="hook_resid_mid"):
        model.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", print), ("blocks.0.hook_resid_mit", print)])
    assert hooks_left(model) == []


def test_contexts_nest_and_each_removes_its_own(model):
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: None)]):
        with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: None), ("hook_pos_embed", lambda x, hook: None)]):
            assert len(model.hook_dict["hook_embed"].fwd_hooks) == 2
        assert len(model.hook_dict["hook_embed"].fwd_hooks) == 1
        assert hooks_left(model) == ["hook_embed"]
    assert hooks_left(model) == []


def test_hooks_by_hand_stay_until_reset_and_permanent_ones_longer(model):
    model.add_hook("hook_embed", lambda x, hook: None)
    model.add_perma_hook("hook_pos_embed", lambda x, hook: None)
    model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: None)])
    assert hooks_left(model) == ["hook_embed", "hook_pos_embed"]
    model.reset_hooks()
    assert hooks_left(model) == ["hook_pos_embed"]
    model.reset_hooks(including_permanent=True)
    assert hooks_left(model) == []


def test_order_prepend_and_remove_hook(model):
    calls = []
    model.add_hook("hook_embed", lambda x, hook: calls.append("first"))
    model.add_hook("hook_embed", lambda x, hook: calls.append("before"), prepend=True)
    model(TOKENS)
    assert calls == ["before", "first"]
    model.remove_hook("hook_embed")
    model(TOKENS)
    assert calls == ["before", "first"]


def test_a_hook_may_remove_and_add_hooks_while_the_model_runs(model):
    seen = []

    def once(activation, hook):
        seen.append(hook.name)
        hook.remove_hooks()
        model.add_hook("blocks.1.hook_resid_pre", lambda x, hook: seen.append(hook.name))

    model.add_hook("blocks.0.hook_resid_pre", once)
    model(TOKENS)
    assert seen == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    model.reset_hooks()


def test_ctx_outlives_the_run_and_layer_comes_from_the_name(model):
    def count(activation, hook):
        hook.ctx["layer"] = hook.layer()

    model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", count)])
    assert model.hook_dict["blocks.1.attn.hook_z"].ctx == {"layer": 1}
    model.clear_contexts()
    assert model.hook_dict["blocks.1.attn.hook_z"].ctx == {}
    with pytest.raises(ValueError, match="hook_embed"):
        model.hook_dict["hook_embed"].layer()


@pytest.mark.parametrize(
    "name, config",
    [
        ("attn.hook_result", GPT2_LIKE),
        ("hook_q_input", LLAMA_LIKE | dict(n_key_value_heads=2)),
        ("hook_attn_in", GPT2_LIKE),
        ("hook_mlp_in", GPT2_LIKE),
    ],
)
def test_an_optional_point_is_switched_on_by_hooking_it(name, config):
    _, model = pair(config)
    plain, full_name, seen = model(TOKENS), f"blocks.1.{name}", []
    by_name = model.run_with_hooks(TOKENS, fwd_hooks=[(full_name, lambda x, hook: seen.append(hook.name))])
    model.run_with_hooks(TOKENS, fwd_hooks=[(lambda n: n.endswith(name), lambda x, hook: seen.append(hook.name))])
    assert seen == [full_name, f"blocks.0.{name}", full_name]
    torch.testing.assert_close(by_name, plain, atol=1e-5, rtol=1e-5)
    _, cache = model.run_with_cache(TOKENS, names_filter=full_name)
    assert list(cache) == [full_name]
    _, everything = model.run_with_cache(TOKENS)
    assert full_name not in everything


def test_optional_inputs_reach_one_head_and_leave_the_stream_alone():
    theirs, ours = pair(GPT2_LIKE)
    theirs.set_use_split_qkv_input(True)

    def edit(x, hook):
        x[:, :, 2] *= 0.5

    hook = [("blocks.1.hook_k_input", edit)]
    torch.testing.assert_close(
        ours.run_with_hooks(TOKENS, fwd_hooks=hook), theirs.run_with_hooks(TOKENS, fwd_hooks=hook), atol=1e-4, rtol=1e-4
    )


def test_backward_hooks_see_and_change_gradients(model):
    seen = {}

    def halve(grad, hook):
        seen[hook.name] = grad.clone()
        return grad / 2

    with model.hooks(bwd_hooks=[("blocks.0.hook_resid_post", halve), ("blocks.1.hook_resid_pre", halve)]):
        model(TOKENS, return_type="loss").backward()
    # The later point in the model comes first on the way back, and its change reaches the earlier one.
    torch.testing.assert_close(seen["blocks.0.hook_resid_post"], seen["blocks.1.hook_resid_pre"] / 2)


def test_run_with_hooks_warns_that_backward_hooks_go_before_backward(model):
    with pytest.warns(UserWarning, match="before any .backward"):
        model.run_with_hooks(TOKENS, bwd_hooks=[("hook_embed", lambda g, hook: None)], return_type="loss")


def test_a_replaced_point_or_a_torch_hook_is_noticed_by_the_fast_paths(model):
    seen = []
    model.blocks[0].attn.hook_pattern.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    model.blocks[1].attn.hook_pattern = Spy()
    model.blocks[0].ln1.hook_scale = Spy()
    model(TOKENS)
    assert seen == [(1, 10, 1), (1, 4, 10, 10), (1, 4, 10, 10)]


def test_the_cache_holds_what_was_there_whatever_is_edited_later(model):
    _, expected = model.run_with_cache(TOKENS)
    expected = {name: tensor.clone() for name, tensor in expected.items()}

    def zero_in_place(x, hook):
        x.zero_()

    # A hook at the next block edits, in place, the very tensor that resid_post of this one has recorded.
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", zero_in_place)]):
        logits, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["resid_post", 0], expected["blocks.0.hook_resid_post"])
    assert (cache["resid_pre", 1] == 0).all()

    logits, cache = model.run_with_cache(TOKENS)
    with torch.no_grad():
        logits.zero_()
        cache["resid_pre", 1].zero_()
    torch.testing.assert_close(cache["unembed.hook_out"], expected["unembed.hook_out"])
    torch.testing.assert_close(cache["resid_post", 0], expected["blocks.0.hook_resid_post"])


def test_any_module_with_hook_points_gets_the_same():
    class Adder(HookedRootModule):
        def __init__(self):
            super().__init__()
            self.hook_in, self.hook_out = HookPoint(), HookPoint()
            self.setup()

        def forward(self, x):
            return self.hook_out(self.hook_in(x) + 1)

    adder = Adder()
    _, cache = adder.run_with_cache(torch.zeros(2, 3), names_filter=["hook_out"], pos_slice=None)
    assert list(cache) == ["hook_out"]
    assert adder.run_with_hooks(torch.zeros(2, 3), fwd_hooks=[(lambda n: True, lambda x, hook: x * 2)]).unique() == 2


def test_inference_mode(model):
    with torch.inference_mode():
        _, cache = model.run_with_cache(TOKENS)
    assert cache["pattern", 0].shape == (1, 4, 10, 10)


class InPlace(HookedRootModule):
    """Edits in place what has passed a hook point, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.hook_a, self.hook_b = HookPoint(), HookPoint()
        self.setup()

    def forward(self, x):
        x = self.hook_a(x * 1)
        x += 100
        return {"y": self.hook_b(x)}


def test_the_cache_of_a_module_that_edits_in_place_holds_what_was_there():
    out, cache = InPlace().run_with_cache(torch.zeros(2))
    out["y"].zero_()
    assert cache["hook_a"].tolist() == [0, 0] and cache["hook_b"].tolist() == [100, 100]


def test_the_cache_shares_no_memory_with_what_the_caller_gave(model):
    tokens = TOKENS.clone()
    _, cache = model.run_with_cache(tokens, names_filter=["hook_tokens", "blocks.0.hook_resid_pre"])
    residual = model(TOKENS, stop_at_layer=1).detach()
    _, later = model.run_with_cache(residual, start_at_layer=1, tokens=tokens)
    expected = residual.clone()
    residual.zero_()
    tokens.zero_()
    torch.testing.assert_close(later["resid_pre", 1], expected)
    for kept in (cache["tokens"], cache.tokens, later.tokens):
        torch.testing.assert_close(kept, TOKENS)


@pytest.mark.parametrize("way", ["a module of somebody else's", "a torch hook"])
def test_the_cache_is_safe_from_modules_that_work_in_place(model, way):
    _, expected = model.run_with_cache(TOKENS)

    class Doubling(torch.nn.Module):
        def forward(self, x):
            return x.mul_(2)

    with torch.no_grad():
        if way == "a torch hook":
            model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0].mul_(2), *args[1:]))
        else:
            model.blocks[1].mlp = Doubling()
        _, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["resid_post", 0], expected["resid_post", 0])
    torch.testing.assert_close(cache["normalized", 0, "ln2"], expected["normalized", 0, "ln2"])


def test_a_backward_hook_sees_the_gradient_of_what_the_forward_hooks_of_its_point_made():
    theirs, ours = pair(GPT2_LIKE)
    grads = []
    for model in (theirs, ours):
        model.add_hook("blocks.0.hook_resid_post", lambda x, hook: 2 * x)
        model.add_hook("blocks.0.hook_resid_post", lambda grad, hook: grads.append(grad.clone()), dir="bwd")
        model(TOKENS, return_type="loss").backward()
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-5)


def test_a_hooked_model_inside_another_keeps_its_own_names():
    class Outer(HookedRootModule):
        def __init__(self):
            super().__init__()
            self.inner = InPlace()
            self.setup()

        def forward(self, x):
            return self.inner(x)["y"]

    outer = Outer()
    _, cache = outer.inner.run_with_cache(torch.zeros(2))
    assert list(cache) == ["inner.hook_a", "inner.hook_b"]
    assert outer.inner.run_with_hooks(torch.zeros(2), fwd_hooks=[("hook_b", lambda x, hook: x * 0)])["y"].sum() == 0
    assert hooks_left(outer) == []


def test_removing_by_predicate_reaches_optional_points_too(model):
    model.add_hook("blocks.0.attn.hook_result", lambda x, hook: None)
    model.remove_hook(lambda name: True)
    assert hooks_left(model) == []


@pytest.mark.parametrize("name", ["hook_z", "hook_pattern", "hook_attn_scores", "hook_v", "hook_result"])
def test_an_edit_in_place_can_be_differentiated(name):
    theirs, ours = pair(GPT2_LIKE)
    gradients = []
    for model in (theirs, ours):
        model.set_use_attn_result(True)

        def silence(x, hook):
            x[:, 1] = 0

        with model.hooks(fwd_hooks=[(f"blocks.0.attn.{name}", silence)]):
            model(TOKENS, return_type="loss").backward()
        gradients.append(model.blocks[0].attn.W_V.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_a_hook_may_forbid_a_query_every_key():
    theirs, ours = pair(GPT2_LIKE)

    def forbid(scores, hook):
        scores[:, :, 4] = -torch.inf
        return scores

    hooks = [("blocks.0.attn.hook_attn_scores", forbid)]
    torch.testing.assert_close(
        ours.run_with_hooks(TOKENS, fwd_hooks=hooks),
        theirs.run_with_hooks(TOKENS, fwd_hooks=hooks),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    "hooks, message",
    [
        (("hook_embed", print), "list of pairs"),
        ({"hook_embed": print}, "list of pairs"),
        ([("hook_embed", lambda x, hook: 1.0)], "at hook_embed returned float"),
    ],
    ids=str,
)
def test_hooks_of_the_wrong_form(model, hooks, message):
    with pytest.raises(TypeError, match=message):
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    assert hooks_left(model) == []


@pytest.mark.parametrize("returns", [True, False])
def test_hooks_see_another_form_where_asked_to(returns):
    class Doubled:
        def convert(self, x):
            return x * 2

        def revert(self, x):
            return x / 2

    def run(point, calls):
        point.name = "hook"
        point.enable_reshape(Doubled())
        point.add_hook(lambda x, hook: calls.append(x.tolist()) or (x + 1 if returns else None))
        point.add_hook(lambda grad, hook: calls.append(grad.tolist()), dir="bwd")
        x = torch.ones(2, requires_grad=True)
        out = point(x)
        out.sum().backward()
        return out.tolist()

    ours, theirs = [], []
    assert run(HookPoint(), ours) == run(transformer_lens.hook_points.HookPoint(), theirs)
    assert ours == theirs
    model = HookedTransformer(GPT2_LIKE)
    model.hook_embed.enable_reshape(Doubled())
    with pytest.raises(ValueError, match="in another form"):
        model.run_with_cache([[1, 2]], lazy=True)
