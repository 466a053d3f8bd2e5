"""Is this model the one that transformers runs? Both on one prompt, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.names import get_act_name
from tl_widgets.errors import BadInput, BadType


@dataclass(frozen=True)
class Comparison:
    """How far a model is from transformers' on one prompt; over all real tokens, the largest difference unless said.

    Attributes
    ----------
    log_probs
        Of log-probabilities, in nats.
    logits
        Of logits, each position's less their mean: centring the unembedding moves all logits of a position alike.
    kl
        Kullback-Leibler divergence of ours from theirs, in nats: the largest of any position.
    top1_agreement
        Share of positions with the same likeliest next token.
    resid_pre
        One number a layer: of the residual stream entering it, relative to the length of theirs.
    n_tokens
        How many were compared.
    tolerance
        What `log_probs` and `resid_pre` stay within, if the two agree.
    """

    log_probs: float
    logits: float
    kl: float
    top1_agreement: float
    resid_pre: tuple[float, ...]
    n_tokens: int
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether log-probabilities and residual streams are within the tolerance."""
        return all(x <= self.tolerance for x in (self.log_probs, *self.resid_pre))  # False of what is not a number

    def __str__(self) -> str:
        worst = max(range(len(self.resid_pre)), key=lambda layer: self.resid_pre[layer])
        rows = [
            ("log-probabilities, largest difference (nats)", f"{self.log_probs:.1e}"),
            ("logits less their mean, largest difference", f"{self.logits:.1e}"),
            ("KL divergence, largest (nats)", f"{self.kl:.1e}"),
            ("likeliest next token is the same", f"{self.top1_agreement:.1%}"),
            (f"residual stream, worst layer ({worst}), relative", f"{self.resid_pre[worst]:.1e}"),
        ]
        width = max(len(what) for what, _ in rows)
        verdict = "agrees" if self.agrees else "DOES NOT AGREE"
        heading = f"{verdict} with transformers within {self.tolerance:g}, on {self.n_tokens} tokens"
        return "\n".join([heading, *(f"  {what:<{width}}  {value:>8}" for what, value in rows)])


@torch.no_grad()
def compare_with_hf(model: Any, prompt: Any, hf_model: Any = None, tolerance: float = 1e-3) -> Comparison:
    """Run transformers' model and ours on a prompt, and print how far they are from each other.

    Parameters
    ----------
    model
        A `HookedTransformer`, processed or not.
    prompt
        Text or tokens, as a model reads them.
    hf_model
        The transformers model; None loads it, in float32, from where `model` was loaded from.
    tolerance
        Meant for float32; half precision is further off.

    Returns
    -------
    Comparison
        The figures; ``.agrees`` is the verdict.

    Examples
    --------
    >>> import transformers
    >>> from tl_widgets import HookedTransformer
    >>> config = transformers.GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=4)
    >>> hf_model = transformers.GPT2LMHeadModel(config)
    >>> model = HookedTransformer.from_pretrained("random", hf_model=hf_model)
    Loaded pretrained model random into HookedTransformer
    >>> compare_with_hf(model, [3, 1, 4], hf_model).agrees
    agrees with transformers within 0.001, on 3 tokens
    ...
    True
    """
    hf_model = _loaded(model) if hf_model is None else hf_model
    if not callable(getattr(hf_model, "get_input_embeddings", None)):
        raise BadType(f"hf_model is a transformers model, not {hf_model!r}.")
    batch = model.read(prompt)
    tokens, mask = batch.tokens, batch.mask
    real = torch.ones_like(tokens) if mask is None else mask
    was_training = hf_model.training
    try:
        hf_model.eval()
        device = hf_model.get_input_embeddings().weight.device
        options = {"attention_mask": real.to(device)}
        if mask is not None:
            options["position_ids"] = (real.cumsum(-1) - 1).clamp(min=0).to(device)
        theirs = hf_model(tokens.to(device), output_hidden_states=True, **options)
    finally:
        hf_model.train(was_training)
    n_layers = model.cfg.n_layers
    if len(theirs.hidden_states) != n_layers + 1:
        raise BadInput(
            f"hf_model has {len(theirs.hidden_states) - 1} layers and model {n_layers}: load all of them to compare."
        )
    names = [get_act_name("resid_pre", layer) for layer in range(n_layers)]
    logits, cache = model.run_with_cache(tokens, attention_mask=real, names_filter=names)
    where = real.bool().cpu()
    blind_to_mean = model.cfg.normalization_type == "LNPre"  # writing weights may be centred
    resid_pre = tuple(
        _relative(cache[name].cpu()[where].float(), hidden.cpu()[where].float(), blind_to_mean)
        for name, hidden in zip(names, theirs.hidden_states, strict=False)
    )
    result = _of_logits(logits.cpu()[where].float(), theirs.logits.cpu()[where].float(), resid_pre, tolerance)
    print(result)
    return result


def _loaded(model: Any) -> Any:
    folder = getattr(model, "loaded_from", None)
    if folder is None:
        raise BadInput("This model was not loaded from a hub, a directory or a file: pass the transformers model.")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)


def _relative(ours: Tensor, theirs: Tensor, blind_to_mean: bool) -> float:
    """Length of the difference over that of theirs, the largest over tokens ``[token, d_model]``."""
    if blind_to_mean:
        ours, theirs = (x - x.mean(-1, keepdim=True) for x in (ours, theirs))
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


def _of_logits(ours: Tensor, theirs: Tensor, resid_pre: tuple[float, ...], tolerance: float) -> Comparison:
    """From logits ``[token, d_vocab]``."""
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    centred = [x - x.mean(-1, keepdim=True) for x in (ours, theirs)]
    kl = (log_theirs.double().exp() * (log_theirs - log_ours).double()).sum(-1)
    return Comparison(
        log_probs=(log_ours - log_theirs).abs().max().item(),
        logits=(centred[0] - centred[1]).abs().max().item(),
        kl=max(kl.max().item(), 0.0),
        top1_agreement=(ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
        resid_pre=resid_pre,
        n_tokens=len(ours),
        tolerance=tolerance,
    )
