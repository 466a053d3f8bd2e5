"""Weights rewritten so that they are easier to read, while the model computes the same log-probabilities.

Every step works in place on a dict of weights by name (a state dict, or a model's own parameters), tensor by tensor.
A step that cannot be exact for a model is left out, or refused; `why_not` says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.network import Network
from tl_widgets.network.norm import LayerNormPre, build_norm
from tl_widgets.network.weights import as_linear_out_of_heads

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step: what it does to the weights, and for which models it would not be exact."""

    run: Callable[[Weights, HookedTransformerConfig], None]
    why_not: Callable[[Weights, HookedTransformerConfig], str | None]
    is_refused: bool = False  # an error, where the others are left out with a warning


def process_(model: Network, **wanted: bool) -> None:
    """Run the steps that are `wanted` on the parameters of `model`, in place.

    Parameters
    ----------
    wanted
        ``fold_ln``, ``center_writing_weights``, ``center_unembed``, ``fold_value_biases``,
        ``refactor_factored_attn_matrices``: the names in `STEPS`.

    Warns
    -----
    UserWarning
        For a wanted step that would not be exact for this model, with the reason.

    Raises
    ------
    BadInput
        For ``refactor_factored_attn_matrices`` on a model whose attention is not a product of two maps.
    """
    cfg = model.cfg
    weights = {name: parameter.data for name, parameter in model.named_parameters()}
    for name in STEPS:
        if wanted.get(name) and run_step(name, weights, cfg) and name == "fold_ln":
            _replace_norms(model)


@torch.no_grad()
def run_step(name: str, weights: Weights, cfg: HookedTransformerConfig) -> bool:
    """Run one step in place, unless it would not be exact; whether it ran."""
    step = STEPS[name]
    reason = step.why_not(weights, cfg)
    if reason and step.is_refused:
        raise BadInput(f"{name} is refused for {cfg.model_name}: {reason}")
    if reason:
        warnings.warn(f"{name} is left out for {cfg.model_name}: {reason}", stacklevel=4)
        return False
    step.run(weights, cfg)
    return True


def _replace_norms(model: Network) -> None:
    """Put the weightless form in the place of every norm, now that gains and biases are folded."""
    cfg = model.cfg
    cfg.normalization_type = _FOLDED[cfg.normalization_type or ""]
    for block in model.blocks:
        block.ln1 = build_norm(cfg)
        if not cfg.attn_only:
            block.ln2 = build_norm(cfg)
            if cfg.is_layer_norm_activation() and not cfg.num_experts:
                block.get_submodule("mlp").ln = LayerNormPre(cfg)
    model.ln_final = build_norm(cfg)
    model.setup()


_FOLDED = {"LN": "LNPre", "RMS": "RMSPre"}


def _readers(weights: Weights, cfg: HookedTransformerConfig) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Each norm, with the weights that read it and the biases that can take up its bias."""
    kv = "" if cfg.n_key_value_heads is None else "_"
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"
        attn, mlp = f"{block}.attn", f"{block}.mlp"
        yield (
            f"{block}.ln1",
            [
                (f"{attn}.W_Q", f"{attn}.b_Q"),
                (f"{attn}.{kv}W_K", f"{attn}.{kv}b_K"),
                (f"{attn}.{kv}W_V", f"{attn}.{kv}b_V"),
            ],
        )
        if not cfg.attn_only:
            into_mlp: list[tuple[str, str | None]] = [(f"{mlp}.W_in", f"{mlp}.b_in")]
            if cfg.gated_mlp:
                into_mlp.append((f"{mlp}.W_gate", None))
            yield f"{block}.ln2", into_mlp
            if f"{mlp}.ln.w" in weights:
                yield f"{mlp}.ln", [(f"{mlp}.W_out", f"{mlp}.b_out")]
    yield "ln_final", [("unembed.W_U", "unembed.b_U")]


def fold_layer_norm(
    weights: Weights, cfg: HookedTransformerConfig, fold_biases: bool = True, center_weights: bool = True
) -> None:
    """Each norm's gain (and bias) into the maps that read it; under LayerNorm those are centred over d_model too."""
    is_layer_norm = cfg.normalization_type == "LN"
    for norm, readers in _readers(weights, cfg):
        gain, shift = weights[f"{norm}.w"], weights.get(f"{norm}.b")
        for name, bias_name in readers:
            weight = weights[name]  # [..., d_model, out]
            if fold_biases and shift is not None and bias_name is not None:
                weights[bias_name] += shift @ weight
            if is_layer_norm and center_weights:
                # What reads a centred input never sees its own mean over d_model. In one step: rounded only once.
                mean = (gain @ weight / len(gain)).unsqueeze(-2)
                torch.addcmul(-mean, weight, gain[:, None], out=weight)
            else:
                weight *= gain[:, None]
        gain.fill_(1)
        if fold_biases and shift is not None:
            shift.zero_()


_SHORTFORMER = "under shortformer, queries and keys also read positions, which pass no norm."


def _why_not_fold(weights: Weights, cfg: HookedTransformerConfig) -> str | None:
    if cfg.normalization_type not in _FOLDED:
        return "there is no norm with weights to fold."
    if cfg.num_experts:
        return "its experts and their router share one norm, and stay as they were trained."
    if cfg.positional_embedding_type == "shortformer":
        return _SHORTFORMER
    if cfg.normalization_type == "LN" and cfg.gated_mlp:
        if any(bool(weights[f"blocks.{layer}.ln2.b"].any()) for layer in range(cfg.n_layers)):
            return "its gated MLP has no bias that could take up the LayerNorm's in front of it."
    return None


def center_writing_weights(weights: Weights, cfg: HookedTransformerConfig) -> None:
    """Take the mean over d_model from all that writes to the residual stream; LayerNorm never sees it."""
    names = ["embed.W_E", "pos_embed.W_pos"]
    for layer in range(cfg.n_layers):
        names += [f"blocks.{layer}.attn.W_O", f"blocks.{layer}.attn.b_O"]
        names += [f"blocks.{layer}.mlp.W_out", f"blocks.{layer}.mlp.b_out"]
    for name in names:
        if name in weights:
            weights[name] -= weights[name].mean(-1, keepdim=True)
    for name, weight in weights.items():
        if ".experts." in name and name.endswith(".W_out.weight"):  # torch's shape: d_model comes first
            weight -= weight.mean(0, keepdim=True)


def _why_not_center_writing(weights: Weights, cfg: HookedTransformerConfig) -> str | None:
    if cfg.normalization_type not in ("LN", "LNPre"):
        return "only LayerNorm is blind to the mean that centring removes."
    if cfg.final_rms:
        return "its final norm is RMSNorm, which reads the mean that centring would remove."
    if cfg.use_normalization_before_and_after:
        return "its post-norms stand between these weights and the residual stream."
    if cfg.positional_embedding_type == "shortformer":
        return _SHORTFORMER
    return None


def center_unembed(weights: Weights, cfg: HookedTransformerConfig) -> None:
    """Take the mean over the vocabulary from W_U and b_U; log-probabilities never see it."""
    for name in ("unembed.W_U", "unembed.b_U"):
        weights[name] -= weights[name].mean(-1, keepdim=True)


def _why_not_center_unembed(weights: Weights, cfg: HookedTransformerConfig) -> str | None:
    if cfg.output_logits_soft_cap > 0:
        return "its logits go through a soft cap."
    return _SHORTFORMER if cfg.positional_embedding_type == "shortformer" else None


def fold_value_biases(weights: Weights, cfg: HookedTransformerConfig) -> None:
    """b_V through W_O into b_O: rows of a pattern sum to one, so each head writes it whole wherever it attends."""
    b_V_name = "b_V" if cfg.n_key_value_heads is None else "_b_V"
    for layer in range(cfg.n_layers):
        attn = f"blocks.{layer}.attn"
        b_V, W_O = weights[f"{attn}.{b_V_name}"], weights[f"{attn}.W_O"]
        b_V_of_heads = b_V.repeat_interleave(cfg.n_heads // b_V.shape[0], dim=0)
        weights[f"{attn}.b_O"] += as_linear_out_of_heads(W_O) @ b_V_of_heads.flatten()
        b_V.zero_()


def _why_not_fold_value_biases(weights: Weights, cfg: HookedTransformerConfig) -> str | None:
    if cfg.use_attention_sinks:
        return "attention sinks take a share of each pattern, so that its rows do not sum to one."
    if cfg.clip_qkv is not None:
        return "its values are clipped after their bias is added."
    return None


def refactor_factored_attn_matrices(weights: Weights, cfg: HookedTransformerConfig) -> None:
    """Each head's QK and OV in their singular bases, the biases of queries and keys as one more input row."""
    for layer in range(cfg.n_layers):
        W_Q, b_Q, W_K, b_K, W_V, b_V, W_O, b_O = (
            weights[f"blocks.{layer}.attn.{name}"] for name in ("W_Q", "b_Q", "W_K", "b_K", "W_V", "b_V", "W_O", "b_O")
        )
        U, S, V = _svd_of_product(torch.cat([W_Q, b_Q[:, None]], 1), torch.cat([W_K, b_K[:, None]], 1))
        for W, b, basis in ((W_Q, b_Q, U), (W_K, b_K, V)):
            scaled = basis * S.sqrt()[:, None, :]
            W.copy_(scaled[:, :-1])
            b.copy_(scaled[:, -1])
        b_O += as_linear_out_of_heads(W_O) @ b_V.flatten()
        b_V.zero_()
        U, S, V = _svd_of_product(W_V, W_O.mT)
        W_V.copy_(U * S[:, None, :])
        W_O.copy_(V.mT)


def _svd_of_product(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U`, `S`, `V` of ``left @ right.mT``, through its small core: the product itself is never formed."""
    (Q_left, R_left), (Q_right, R_right) = (torch.linalg.qr(side.float()) for side in (left, right))
    U, S, Vh = torch.linalg.svd(R_left @ R_right.mT)
    return Q_left @ U, S, Q_right @ Vh.mT


def _why_not_refactor(weights: Weights, cfg: HookedTransformerConfig) -> str | None:
    if cfg.positional_embedding_type == "rotary":
        return "rotary positions turn queries and keys, so that no one QK matrix holds for all positions."
    if cfg.use_qk_norm:
        return "norms on queries and keys stand between W_Q and W_K."
    if cfg.n_key_value_heads is not None:
        return "under grouped-query attention heads share W_K and W_V."
    return _why_not_fold_value_biases(weights, cfg)


# In the order in which they run.
STEPS: dict[str, Step] = {
    "fold_ln": Step(fold_layer_norm, _why_not_fold),
    "center_writing_weights": Step(center_writing_weights, _why_not_center_writing),
    "center_unembed": Step(center_unembed, _why_not_center_unembed),
    "fold_value_biases": Step(fold_value_biases, _why_not_fold_value_biases),
    "refactor_factored_attn_matrices": Step(refactor_factored_attn_matrices, _why_not_refactor, is_refused=True),
}
