"""What torch does to functions and models: compilation, autocast, vmap, forward and second derivatives, export."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from tests.engine.oracle import CONFIGS, GPT2_LIKE, pair

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
RESIDUAL = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)
MASK = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])


@pytest.fixture(params=["gpt2-like", "llama-like grouped", "alibi"])
def models(request):
    return pair(CONFIGS[request.param])


def close(mine, other):
    torch.testing.assert_close(mine, other, **CLOSE)


@pytest.fixture
def no_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("no_compiled_code")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_gives_the_same_numbers_and_obeys_hooks_and_replacements(backend):
    theirs, ours = pair(GPT2_LIKE)
    compiled = torch.compile(ours, backend=backend)
    close(compiled(TOKENS), theirs(TOKENS))
    compiled(TOKENS, return_type="loss").backward()
    theirs(TOKENS, return_type="loss").backward()
    close(ours.embed.W_E.grad, theirs.embed.W_E.grad)

    for model in (theirs, ours):
        model.add_hook("blocks.1.attn.hook_pattern", lambda x, hook: x / 2)
    close(compiled(TOKENS), theirs(TOKENS))
    for model in (theirs, ours):
        model.reset_hooks()
    close(compiled(TOKENS), theirs(TOKENS))
    _, cache = compiled.run_with_cache(TOKENS)
    close(cache["resid_mid", 1], theirs.run_with_cache(TOKENS)[1]["resid_mid", 1])

    for model in (theirs, ours):
        model.blocks[1].hook_mlp_out = torch.nn.Tanh()
        model.setup()
    close(compiled(TOKENS), theirs(TOKENS))


@pytest.mark.slow
@pytest.mark.usefixtures("no_compiled_code")
def test_code_that_the_compiler_writes():
    theirs, ours = pair(GPT2_LIKE | dict(n_layers=1))
    with torch.no_grad():
        close(torch.compile(ours, fullgraph=True)(TOKENS), theirs(TOKENS))


def test_export(models):
    theirs, ours = models
    exported = torch.export.export(ours, (TOKENS,), strict=False).module()
    close(exported(TOKENS.flip(0)), theirs(TOKENS.flip(0)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_autocast_runs_forward_and_backward(config):
    _, model = pair(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, loss = model(TOKENS, return_type="both")
        watched, _ = model.run_with_cache(TOKENS)
    loss.backward()
    assert logits.dtype == watched.dtype == torch.bfloat16
    if config.get("normalization_type", "LN") is not None:  # without norms the numbers are too large to compare
        exact = model(TOKENS, return_type="loss")
        torch.testing.assert_close(loss.float(), exact, atol=0.1, rtol=0)


def test_other_weights_for_one_call(models):
    halved = [{name: p / 2 for name, p in model.named_parameters()} for model in models]
    theirs, ours = (functional_call(model, weights, (TOKENS,)) for model, weights in zip(models, halved, strict=True))
    close(ours, theirs)


def test_vmap_over_prompts_masks_and_residual_streams(models):
    _, model = models
    close(vmap(lambda tokens: model(tokens[None])[0])(TOKENS), model(TOKENS))
    masked = vmap(lambda tokens, mask: model(tokens[None], attention_mask=mask[None])[0])(TOKENS, MASK)
    close(masked[:, 3:], model(TOKENS, attention_mask=MASK)[:, 3:])
    close(vmap(lambda x: model(x[None], start_at_layer=1)[0])(RESIDUAL), model(RESIDUAL, start_at_layer=1))


def test_gradients_prompt_by_prompt(models):
    def by_prompt(model):
        weights = dict(model.named_parameters())

        def loss(weights, tokens):
            return functional_call(model, weights, (tokens[None],), dict(return_type="loss"))

        return vmap(grad(loss), in_dims=(None, 0))(weights, TOKENS)

    theirs, ours = (by_prompt(model) for model in models)
    for name, gradient in ours.items():
        close(gradient, theirs[name])


def read_out(model):
    return lambda residual: model(residual, start_at_layer=0)[:, -1, :3].sum()


def test_derivatives_along_a_direction(models):
    theirs, ours = (jvp(read_out(model), (RESIDUAL,), (RESIDUAL.flip(0),)) for model in models)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other)


def test_jacobians_and_hessians(models):
    short = RESIDUAL[:1, :3]
    theirs, ours = ((jacrev(read_out(model))(short), hessian(read_out(model))(short)) for model in models)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other)


def test_a_gradients_gradient(models):
    def hessian_vector_product(model):
        x = RESIDUAL.clone().requires_grad_()
        (first,) = torch.autograd.grad(read_out(model)(x), x, create_graph=True)
        return torch.autograd.grad((first * RESIDUAL).sum(), x)[0]

    theirs, ours = models
    with sdpa_kernel(SDPBackend.MATH):
        product = hessian_vector_product(ours)
    close(product, hessian_vector_product(theirs))


def test_checkpointing_and_a_copy_that_keeps_its_hooks(models):
    _, model = models
    close(checkpoint(model, TOKENS, use_reentrant=False), model(TOKENS))
    model.add_hook("hook_embed", lambda x, hook: 2 * x)
    twin = copy.deepcopy(model)
    close(twin(TOKENS), model(TOKENS))
    twin.reset_hooks()
    assert model.hook_dict["hook_embed"].has_hooks()


def test_inference_mode_gives_the_same_numbers_watched_or_not(models):
    theirs, ours = models
    with torch.inference_mode():
        close(ours(TOKENS), theirs(TOKENS))
        logits, cache = ours.run_with_cache(TOKENS)
        halved = ours.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: x.mul_(0.5))])
    close(logits, theirs(TOKENS))
    close(cache["z", 1], theirs.run_with_cache(TOKENS)[1]["z", 1])
    close(halved, theirs.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: x * 0.5)]))


@pytest.mark.parametrize("name", ["llama-like", "gpt2-like", "yarn", "local attention", "alibi"])
def test_double_precision_is_double_throughout(name):
    theirs, ours = pair(CONFIGS[name] | dict(dtype=torch.float64))
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS), atol=1e-10, rtol=1e-10)
