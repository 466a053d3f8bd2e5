"""`LazyActivationCache`: keeps the residual stream, and recomputes what else is read."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from tl_widgets.cache import saving
from tl_widgets.cache.activation_cache import ActivationCache
from tl_widgets.cache.recomputed import Presentation, RecomputedActivations
from tl_widgets.cache.rerun import Rerun
from tl_widgets.errors import BadInput
from tl_widgets.hooks import HookedRootModule
from tl_widgets.math.slice import Slice, SliceInput

_EMBEDDINGS = {"hook_tokens", "hook_embed", "hook_pos_embed"}


class LazyActivationCache(ActivationCache):
    """What ``run_with_cache(..., lazy=True)`` returns: everything a full cache holds, in a small part of its memory.

    It keeps the residual stream that enters each block, and what had hooks in the run. Whatever else is read is made
    again by running its block from there: equal to what a full cache holds, up to the rounding between attention
    kernels. An activation that is read stays for a while, see `budget`.

    Hooks that the model has when a block is run again are set aside. Modules that others put into the model run again,
    and are taken to give the same again. A change of weights or config since is an error (`StaleCache`).

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> logits, cache = model.run_with_cache([3, 1, 4], lazy=True)
    >>> _, full = model.run_with_cache([3, 1, 4])
    >>> cache.nbytes < full.nbytes, len(cache) == len(full)
    (True, True)
    >>> torch.testing.assert_close(cache["pattern", 1], full["pattern", 1])
    """

    kind: ClassVar[str] = "lazy"

    cache_dict: RecomputedActivations

    @property
    def budget(self) -> int:
        """How many bytes of recomputed activations stay, those read last; set it to what you can spare."""
        return self.cache_dict.budget

    @budget.setter
    def budget(self, n_bytes: int) -> None:
        self.cache_dict.budget = n_bytes

    @property
    def nbytes(self) -> int:
        """Memory that is held now: what is kept, and what was recomputed lately."""
        return self.cache_dict.nbytes

    def to(self, device: torch.device | str) -> LazyActivationCache:
        """Keep the activations on `device` from now on, in place; the model recomputes where it is."""
        self.cache_dict = self.cache_dict.to(device)
        return self

    def remove_batch_dim(self) -> LazyActivationCache:
        """Drop the batch dimension (of one), in place."""
        if self.has_batch_dim:
            n_examples = self.cache_dict.n_examples
            if n_examples != 1:
                raise BadInput(f"Only a batch of one can be dropped, but this cache has a batch of {n_examples}.")
            self.cache_dict = self.cache_dict.without_batch_dim()
            self.has_batch_dim = False
        return self

    def _of_items(self, items: Slice) -> RecomputedActivations:
        return self.cache_dict.for_examples(items)

    def _saved(self) -> saving.Saved:
        store = self.cache_dict
        rerun, presentation = store.rerun, store.presentation
        if rerun.past is not None:
            raise BadInput(
                "A lazy cache of a run that went on from a key/value cache cannot be saved; a full one can: "
                "ActivationCache(dict(cache), model).save(path)."
            )
        about = {
            "from_tokens": rerun.tokens is not None,
            "layers": [rerun.layers.start, rerun.layers.stop],
            "to_the_end": rerun.to_the_end,
            "hooked": sorted(store.hooked),
            "names": list(store.names),
            "remove_batch_dim": presentation.remove_batch_dim,
            "pos_slice": _as_json(presentation.pos_slice),
        }
        return saving.Saved(self.kind, store.kept, self.has_batch_dim, self.tokens, self.mask, about)

    @classmethod
    def _from_saved(cls, saved: saving.Saved, model: Any) -> LazyActivationCache:
        about = saved.about
        tokens = saved.tokens if about["from_tokens"] else None
        rerun = Rerun(model, tokens, saved.mask, None, range(*about["layers"]), about["to_the_end"])
        presentation = Presentation(None, about["remove_batch_dim"], _from_json(about["pos_slice"]), private=True)
        store = RecomputedActivations(
            rerun, saved.activations, frozenset(about["hooked"]), about["names"], presentation
        )
        store.check()
        return cls(store, model, saved.has_batch_dim, saved.tokens, saved.mask)


def _as_json(pos_slice: Slice) -> Any:
    picked = pos_slice.slice
    return (
        {"slice": [picked.start, picked.stop, picked.step]}
        if isinstance(picked, slice)
        else np.asarray(picked).tolist()
    )


def _from_json(picked: Any) -> Slice:
    return Slice(slice(*picked["slice"])) if isinstance(picked, dict) else Slice(picked)


def run_lazily(
    model: Any,
    rerun: Rerun,
    arguments: dict[str, Any],
    remove_batch_dim: bool = False,
    device: torch.device | str | None = None,
    pos_slice: SliceInput | Slice = None,
    **hook_options: Any,
) -> tuple[Any, RecomputedActivations]:
    """Run the model once, keeping what the rest can be recomputed from.

    Parameters
    ----------
    rerun
        What the pass is given, in the form in which its parts are repeated.
    arguments
        The same, for the model's ``forward``.
    remove_batch_dim, device, pos_slice, hook_options
        As in `HookedRootModule.run_with_cache`.
    """
    if remove_batch_dim and len(arguments["input"]) != 1:
        raise BadInput(f"remove_batch_dim=True needs a batch of one, but this is a batch of {len(arguments['input'])}.")
    computed = model.computed_points()
    hooked = frozenset(name for name, point in model.hook_dict.items() if point.fwd_hooks)
    entering = {rerun.input_of(stretch) for stretch in (*rerun.layers, "final")} if rerun.layers else set()
    keep = [name for name in computed if name in entering | _EMBEDDINGS or rerun.stretch_of(name) is None]
    output, kept = HookedRootModule.run_with_cache(
        model, **arguments, names_filter=[*keep, *hooked], device=device, **hook_options
    )
    names = [name for name in computed if name in kept or rerun.stretch_of(name) is not None]
    if arguments.get("return_type", "logits") is None:
        names = [name for name in names if not name.startswith("unembed.")]
    with model.no_hooks():
        private = not model.keeps_to_itself()
    presentation = Presentation(device, remove_batch_dim, Slice.unwrap(pos_slice), private)
    return output, RecomputedActivations(rerun, kept, hooked & kept.keys(), names, presentation)
