"""The field's module names: what code imports from `transformer_lens` is found under the same names here.

>>> from tl_widgets.hook_points import HookPoint
>>> from tl_widgets.components import TransformerBlock

After ``tl_widgets.as_transformer_lens()`` code may go on saying ``from transformer_lens import HookedTransformer``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tl_widgets import patching, utils
from tl_widgets.analysis import evals, head_detector
from tl_widgets.analysis.attribution import DirectLogitAttribution, direct_logit_attribution
from tl_widgets.analysis.svd import SVDInterpreter
from tl_widgets.analysis.train import HookedTransformerTrainConfig, train
from tl_widgets.cache import ActivationCache
from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.hooks import HookedRootModule, HookPoint
from tl_widgets.math import FactoredMatrix
from tl_widgets.network.attention import AbstractAttention, Attention, GroupedQueryAttention
from tl_widgets.network.block import TransformerBlock
from tl_widgets.network.embed import Embed, PosEmbed, Unembed
from tl_widgets.network.experts import MoE
from tl_widgets.network.mlp import MLP, GatedMLP
from tl_widgets.network.norm import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from tl_widgets.text import (
    HookedTransformerKeyValueCache,
    HookedTransformerKeyValueCacheEntry,
    TransformerLensKeyValueCache,
    TransformerLensKeyValueCacheEntry,
)
from tl_widgets.transformer import HookedTransformer, Output

_COMPONENTS = (
    *(AbstractAttention, Attention, GroupedQueryAttention, TransformerBlock, Embed, PosEmbed, Unembed),
    *(MoE, MLP, GatedMLP, LayerNorm, LayerNormPre, RMSNorm, RMSNormPre),
)
_KEY_VALUE_CACHES = {
    "HookedTransformerKeyValueCache": HookedTransformerKeyValueCache,
    "HookedTransformerKeyValueCacheEntry": HookedTransformerKeyValueCacheEntry,
    "TransformerLensKeyValueCache": TransformerLensKeyValueCache,
    "TransformerLensKeyValueCacheEntry": TransformerLensKeyValueCacheEntry,
}


def _named(*things: Any) -> dict[str, Any]:
    return {thing.__name__: thing for thing in things}


# The field's module -> what it holds: another module's names, or these.
MODULES: dict[str, ModuleType | dict[str, Any]] = {
    "ActivationCache": _named(ActivationCache),
    "FactoredMatrix": _named(FactoredMatrix),
    "HookedTransformer": _named(HookedTransformer, Output),
    "HookedTransformerConfig": _named(HookedTransformerConfig),
    "SVDInterpreter": _named(SVDInterpreter),
    "components": _named(*_COMPONENTS),
    "evals": evals,
    "head_detector": head_detector,
    "hook_points": _named(HookPoint, HookedRootModule),
    "past_key_value_caching": _KEY_VALUE_CACHES,
    "patching": patching,
    "tools": {},
    "tools.analysis": _named(direct_logit_attribution, DirectLogitAttribution),
    "train": _named(train, HookedTransformerTrainConfig),
    "utils": utils,
}


def add_modules(package: str) -> None:
    """Let ``from package.name import ...`` find what the field's module of that name holds."""
    for name, held in MODULES.items():
        full = f"{package}.{name}"
        if isinstance(held, ModuleType):
            sys.modules.setdefault(full, held)
            continue
        if full not in sys.modules:
            module = ModuleType(full, f"The names of the field's module {name!r}.")
            module.__dict__.update(held, __all__=list(held))
            sys.modules[full] = module


def as_transformer_lens() -> None:
    """Let ``import transformer_lens`` mean this package, here and in what is imported later.

    Raises
    ------
    BadInput
        If the other package is imported already: what holds its classes would not see ours.
    """
    package = sys.modules["tl_widgets"]
    if sys.modules.get("transformer_lens", package) is not package:
        raise BadInput(
            "transformer_lens is imported already: call as_transformer_lens() first, in a kernel that is started anew."
        )
    sys.modules["transformer_lens"] = package
    add_modules("transformer_lens")
