"""The field's shorthand for activations: ``("k", 6, "a")`` -> ``blocks.6.attn.hook_k``."""

from __future__ import annotations

import re

from tl_widgets.errors import UnknownName

_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_SUBLAYER_ALIASES = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn"}
_SUBLAYERS = dict.fromkeys(("k", "v", "q", "z", "rot_k", "rot_q", "result", "pattern", "attn_scores"), "attn")
_SUBLAYERS |= dict.fromkeys(("pre", "post", "mid", "pre_linear"), "mlp")
_OF_NORMS = ("scale", "normalized")
_WITH_LAYER = re.compile(r"([a-z_]+)(\d+)(.*)")


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """Return the full name of an activation from the field's shorthand.

    Parameters
    ----------
    name
        Short (``"q"``, ``"resid_post"``, ``"k6"``, ``"scale4ln1"``) or already full.
    layer
        The layer's number; None for what is outside the blocks.
    layer_type
        The part of the block (``"attn"`` or ``"a"``, ``"mlp"`` or ``"m"``, ``"ln1"``, ``"ln2"``), where the name alone
        does not say.

    Examples
    --------
    >>> get_act_name("k", 6, "a"), get_act_name("resid_post", 0), get_act_name("scale4ln1"), get_act_name("embed")
    ('blocks.6.attn.hook_k', 'blocks.0.hook_resid_post', 'blocks.4.ln1.hook_scale', 'hook_embed')
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    together = _WITH_LAYER.fullmatch(name) if layer is None else None
    if together:
        name, layer, layer_type = together[1], together[2], together[3] or layer_type
    name = _ALIASES.get(name, name)
    if layer is None:
        return f"ln_final.hook_{name}" if name in _OF_NORMS else f"hook_{name}"
    part = _SUBLAYER_ALIASES.get(layer_type, layer_type) if layer_type else _SUBLAYERS.get(name, "")
    if name in _OF_NORMS and not part:
        raise UnknownName(f"{name!r} in layer {layer} needs to know of which norm: 'ln1' or 'ln2'.")
    return ".".join(part for part in ("blocks", str(layer), part, f"hook_{name}") if part)
