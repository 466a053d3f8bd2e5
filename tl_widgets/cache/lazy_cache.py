"""`LazyActivationCache`: keeps the residual stream, and recomputes what else is read."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, ValuesView
from typing import Any, ClassVar

import torch
from torch import Tensor

from tl_widgets.cache import saving
from tl_widgets.cache.activation_cache import ActivationCache
from tl_widgets.cache.recomputed import Presentation, RecomputedActivations
from tl_widgets.cache.rerun import Rerun
from tl_widgets.errors import BadInput, CannotLoad, StaleCache
from tl_widgets.hooks import HookPoint, Recorder
from tl_widgets.math.slice import Slice, SliceInput

_EMBEDDINGS = {"hook_tokens", "hook_embed", "hook_pos_embed"}


class LazyActivationCache(ActivationCache):
    """What ``run_with_cache(..., lazy=True)`` returns: everything a full cache holds, in a small part of its memory.

    It keeps the residual stream that enters each block, and what had hooks in the run. Whatever else is read is made
    again by running its block from there: equal to what a full cache holds, up to the rounding between attention
    kernels. An activation that is read stays for a while, see `budget`.

    Blocks run again as they were: hooks, flags and modules that come later do not count. Modules that others put into
    the model, and hooks of torch's, run again too, and are taken to give the same again. A change of weights since,
    to the last bit, is an error (`StaleCache`). What is read of the residual stream is a copy, to be edited at will.

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

    def items(self) -> Any:
        """Names and activations; each block is run once."""
        return _InTurn(self)

    def values(self) -> Any:
        """Activations; each block is run once."""
        return _ValuesInTurn(self)

    def compute_head_results(self) -> None:
        """List what each head writes, ``cache["result", layer]``, among the activations; computed when it is read."""
        for layer in self.cache_dict.rerun.layers:
            self.cache_dict.names.setdefault(f"blocks.{layer}.attn.hook_result")

    def _of_items(self, items: Slice) -> RecomputedActivations:
        return self.cache_dict.for_examples(items)

    def _saved(self) -> saving.Saved:
        store = self.cache_dict
        rerun, presentation = store.rerun, store.presentation
        if rerun.past is not None or store.has_assigned:
            why = "goes on from a key/value cache" if rerun.past is not None else "holds what was assigned to it"
            raise BadInput(
                f"A lazy cache that {why} cannot be saved; a full one can: "
                "ActivationCache(dict(cache), model).save(path)."
            )
        earlier = {f"{name}/{i}": each for name, several in store.hooked.items() for i, each in enumerate(several[:-1])}
        about = {
            "from_tokens": rerun.tokens is not None,
            "layers": [rerun.layers.start, rerun.layers.stop],
            "to_the_end": rerun.to_the_end,
            "hooked": {name: len(several) for name, several in sorted(store.hooked.items())},
            "names": list(store.names),
            "remove_batch_dim": presentation.remove_batch_dim,
            "pos_slice": presentation.pos_slice.as_json(),
            "weights": {str(stretch): numbers for stretch, numbers in rerun.weights.items()},
        }
        return saving.Saved(self.kind, store.kept | earlier, self.has_batch_dim, self.tokens, self.mask, about)

    @classmethod
    def _from_saved(cls, saved: saving.Saved, model: Any) -> LazyActivationCache:
        about = saved.about
        tokens = saved.tokens if about["from_tokens"] else None
        rerun = Rerun(model, tokens, saved.mask, None, range(*about["layers"]), about["to_the_end"])
        presentation = Presentation(None, about["remove_batch_dim"], Slice.from_json(about["pos_slice"]), private=True)
        kept = {name: activation for name, activation in saved.activations.items() if "/" not in name}
        hooked = {
            name: [*(saved.activations[f"{name}/{i}"] for i in range(n - 1)), kept[name]]
            for name, n in about["hooked"].items()
        }
        store = RecomputedActivations(rerun, kept, hooked, about["names"], presentation)
        if about["weights"] != {str(stretch): numbers for stretch, numbers in rerun.weights.items()}:
            _check_that_it_computes_the_same(store, model)
        return cls(store, model, saved.has_batch_dim, saved.tokens, saved.mask, presentation.pos_slice)


def _check_that_it_computes_the_same(store: RecomputedActivations, model: Any) -> None:
    """The bits are others: the same model, processed anew on another machine, or another one."""
    dtype = next(iter(store.kept.values())).dtype
    if dtype != model.cfg.dtype:
        raise CannotLoad(f"The file holds a lazy cache in {dtype}, but this model computes in {model.cfg.dtype}.")
    if dtype not in (torch.float32, torch.float64):
        raise StaleCache("This model's weights are not those that the lazy cache in the file was made with.")
    store.check()


class _InTurn(ItemsView):
    _mapping: LazyActivationCache

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._mapping.cache_dict.in_turn()


class _ValuesInTurn(ValuesView):
    _mapping: LazyActivationCache

    def __iter__(self) -> Iterator[Tensor]:
        return (activation for _, activation in self._mapping.cache_dict.in_turn())


class _EveryPass(Recorder):
    """Records, and of some points not only the last time that they are passed."""

    def __init__(self, points: Iterable[str], **how: Any) -> None:
        super().__init__({}, **how)
        self._points = set(points)
        self.passes: dict[str, list[Tensor]] = {}

    def activation(self, tensor: Tensor, hook: HookPoint) -> None:
        super().activation(tensor, hook)
        name = hook.name or ""
        if name in self._points:
            self.passes.setdefault(name, []).append(self.cache[name])

    def part_from(self, output: Any) -> None:
        super().part_from(output)
        for name, passes in self.passes.items():
            passes[-1] = self.cache[name]


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
    reshaped = [name for name, point in model.hook_dict.items() if point.hook_conversion is not None]
    if reshaped:
        raise BadInput(f"Hooks see {reshaped[0]!r} in another form (enable_reshape): nothing can be run from that.")
    computed = model.computed_points()
    hooked = _hooked(model)
    entering = {rerun.input_of(stretch) for stretch in (*rerun.layers, "final")} if rerun.layers else set()
    keep = [name for name in computed if name in entering | _EMBEDDINGS or rerun.stretch_of(name) is None]
    recorder = _EveryPass(hooked, device=device, private=not model.keeps_to_itself())
    recorder.stay_apart_from(arguments.values())
    with model.hooks([(name, recorder.activation) for name in dict.fromkeys([*keep, *hooked])], **hook_options):
        output = model(**arguments)
    recorder.part_from(output)
    appeared = map(rerun.stretch_of, _hooked(model) - hooked)
    rerun.unsure = frozenset(stretch for stretch in appeared if stretch is not None)
    kept = recorder.cache
    names = [name for name in computed if name in kept or rerun.stretch_of(name) is not None]
    if arguments.get("return_type", "logits") is None:
        names = [name for name in names if not name.startswith("unembed.")]
    presentation = Presentation(device, remove_batch_dim, Slice.unwrap(pos_slice), not rerun.keeps_to_itself)
    return output, RecomputedActivations(rerun, kept, recorder.passes, names, presentation)


def _hooked(model: Any) -> frozenset[str]:
    return frozenset(name for name, point in model.hook_dict.items() if point.fwd_hooks)
