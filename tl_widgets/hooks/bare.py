"""A model without its hooks, beside the model with them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeVar

from torch import nn

from tl_widgets.hooks.point import HookPoint

M = TypeVar("M", bound=nn.Module)

_OWN = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_parameters", "_buffers")


def bare_copy(module: M, **replaced: tuple[Any, Any]) -> M:
    """Return the same modules over the same weights, whose hook points are their own and have no hooks.

    What is attached, replaced or removed in one is not in the other; what hooks of torch's do they do in both.

    Parameters
    ----------
    replaced
        For an attribute that modules share, ``cfg=(old, new)``: the copy has `new` where a module has `old`.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=8, d_head=4, act_fn="gelu", d_vocab=50))
    >>> model.add_hook("hook_embed", lambda embed, hook: 0 * embed)
    >>> bare = bare_copy(model)
    >>> bare.hook_embed.has_hooks(), bare.embed.W_E is model.embed.W_E
    (False, True)
    """
    copy = object.__new__(type(module))
    attributes = dict(module.__dict__)
    for name, (old, new) in replaced.items():
        if attributes.get(name) is old:
            attributes[name] = new
    attributes |= {name: OrderedDict(attributes[name]) for name in _OWN if isinstance(attributes.get(name), dict)}
    attributes["_modules"] = OrderedDict(
        (name, None if child is None else bare_copy(child, **replaced)) for name, child in module._modules.items()
    )
    if type(module) is HookPoint:
        attributes["fwd_hooks"], attributes["bwd_hooks"] = [], []
    object.__setattr__(copy, "__dict__", attributes)
    return copy
