"""Random weights: the distribution that each mode promises, and the oracle's."""

from __future__ import annotations

import math

import pytest
import torch
import transformer_lens
import transformer_lens.utils

from tl_widgets import HookedTransformer, utils
from tl_widgets.errors import BadInput
from tl_widgets.network.init import init_weights_

MODES = ["gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "muP"]
# Large enough that a sample's standard deviation is within 5% of what it should be.
CONFIG = dict(
    n_layers=2, d_model=64, n_heads=4, d_head=16, d_mlp=256, n_ctx=128, d_vocab=500, seed=0, device="cpu", act_fn="gelu"
)
GROUPED = CONFIG | dict(n_key_value_heads=2, gated_mlp=True)


def is_weight(name):
    return name.rsplit(".", 1)[-1].lstrip("_").startswith("W_")


@pytest.mark.parametrize("initializer_range", [-1.0, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["plain", "grouped, gated"])
def test_every_weight_is_spread_like_the_oracles(config, mode, initializer_range):
    config = config | dict(init_mode=mode, initializer_range=initializer_range)
    ours = HookedTransformer(dict(config))
    theirs = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**config))
    assert ours.cfg.initializer_range == theirs.cfg.initializer_range
    their_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if not is_weight(name):
            assert torch.equal(parameter, their_parameters[name]), name
            continue
        std = parameter.std().item()
        assert abs(parameter.mean().item()) < 0.1 * std, name
        if mode == "muP" and name == "unembed.W_U":
            continue  # the reference takes it for an embedding: see below
        assert std == pytest.approx(their_parameters[name].std().item(), rel=0.05), name
        # Uniform weights stop at sqrt(3) standard deviations, normal ones do not.
        assert (parameter.abs().max().item() / std < 1.8) == mode.endswith("uniform"), name


def test_muP_scales_by_fan_in_and_treats_the_unembedding_as_one():
    model = HookedTransformer(CONFIG | dict(init_mode="muP"))
    expected = {"embed.W_E": 1, "pos_embed.W_pos": 1, "unembed.W_U": 1 / 64}
    expected |= {"blocks.1.attn.W_Q": 1 / 8, "blocks.1.attn.W_O": 1 / 4, "blocks.1.mlp.W_out": 1 / 16}
    for name, std in expected.items():
        assert model.get_parameter(name).std().item() == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_makes_weights_repeatable(mode):
    one, two, other = (HookedTransformer(GROUPED | dict(init_mode=mode, seed=seed)) for seed in (3, 3, 4))
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert is_weight(name) != torch.equal(a, c), name
    before = one.blocks[0].attn.W_Q.clone()
    one.blocks[0].attn.W_Q.data.zero_()
    one.init_weights()
    assert torch.equal(one.blocks[0].attn.W_Q, before)


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="'kaiming_normal'"):
        HookedTransformer(CONFIG | dict(init_mode="he"))


def test_weights_in_the_layout_of_torchs_linear_are_scaled_by_their_inputs():
    # As the experts of a mixture keep theirs: [out, in], below a name that starts with W_.
    model = HookedTransformer(CONFIG | dict(init_mode="muP"))
    expert = torch.nn.Module()
    expert.W_in = torch.nn.Linear(64, 256, bias=True)
    bias = expert.W_in.bias.clone()
    init_weights_(expert, model.cfg)
    assert expert.W_in.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert torch.equal(expert.W_in.bias, bias)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4)], ids=str)
def test_fans(shape):
    tensor = torch.ones(shape)
    assert utils.calc_fan_in_and_fan_out(tensor) == transformer_lens.utils.calc_fan_in_and_fan_out(tensor)


@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5)], ids=str)
def test_fans_that_nobody_defined(shape):
    with pytest.raises(ValueError, match="Fan in"):
        utils.calc_fan_in_and_fan_out(torch.ones(shape))


@pytest.mark.parametrize(
    "options",
    [{}, dict(gain=0.5), dict(nonlinearity="linear"), dict(nonlinearity="leaky_relu", a=1.0), dict(mode="fan_out")],
    ids=str,
)
@pytest.mark.parametrize("kind", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"])
def test_the_helpers_agree_with_the_oracles(kind, options):
    if "xavier" in kind and set(options) - {"gain"}:
        options = {}
    ours, theirs = (torch.nn.Parameter(torch.zeros(4, 200, 100)) for _ in range(2))
    for module, parameter in ((utils, ours), (transformer_lens.utils, theirs)):
        torch.manual_seed(0)
        assert getattr(module, f"init_{kind}_")(parameter, **options) is parameter
    torch.testing.assert_close(ours, theirs)  # contiguous memory and one seed: the very same numbers


def test_a_helper_refuses_an_unknown_mode():
    with pytest.raises(BadInput, match="'fan_in' or 'fan_out'"):
        utils.init_kaiming_normal_(torch.zeros(2, 3), mode="fan_avg")
    weight = utils.init_xavier_uniform_(torch.zeros(30, 20))
    assert weight.abs().max().item() <= math.sqrt(6 / 50)
