"""`ActivationCache`: the activations of one run, by full name or by the field's shorthand."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tl_widgets.cache import saving
from tl_widgets.cache.decomposition import DecompositionMethods
from tl_widgets.cache.logits import LogitMethods
from tl_widgets.cache.names import get_act_name
from tl_widgets.cache.reading import Key, as_slice, keeping_axis
from tl_widgets.cache.residual import ResidualMethods
from tl_widgets.cache.summary import summary
from tl_widgets.errors import BadInput, UnknownName, unknown
from tl_widgets.hooks import has_batch_axis
from tl_widgets.math import Slice, SliceInput

if TYPE_CHECKING:
    from tl_widgets.views import CacheView


class ActivationCache(ResidualMethods, DecompositionMethods, LogitMethods):
    """A mapping from activations to tensors; at the end of a notebook cell, something to explore.

    Parameters
    ----------
    cache_dict
        Full names to tensors.
    model
        The model that made them.
    has_batch_dim
        Whether the tensors start with a batch dimension.
    tokens
        ``[batch, pos]``: what the model read, where it is known.
    mask
        ``[batch, pos]``: 1 for a real token, 0 for padding; None where all are real.
    pos_slice
        Which of these positions the activations are of, as in `run_with_cache`; afterwards ``cache.positions``.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> logits, cache = model.run_with_cache([3, 1, 4])
    >>> cache["pattern", 1].shape, cache["resid_post", -1].shape, cache["embed"].shape
    (torch.Size([1, 4, 3, 3]), torch.Size([1, 3, 16]), torch.Size([1, 3, 16]))
    """

    kind: ClassVar[str] = "full"  # in a file

    def __init__(
        self,
        cache_dict: MutableMapping[str, Tensor],
        model: Any,
        has_batch_dim: bool = True,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        pos_slice: Slice | SliceInput = None,
    ) -> None:
        self.cache_dict = cache_dict
        self.model = model
        self.has_batch_dim = has_batch_dim
        self.has_embed = "hook_embed" in cache_dict
        self.has_pos_embed = "hook_pos_embed" in cache_dict
        self.tokens = tokens
        self.mask = mask
        self.positions = Slice.unwrap(pos_slice)
        self._view: CacheView | None = None

    # A mapping

    def __getitem__(self, key: Key) -> Tensor:
        """``cache["blocks.0.hook_resid_pre"]``, ``cache["resid_pre", 0]``, ``cache["scale", -1, "ln2"]``."""
        name = self._full_name(key)
        try:
            return self.cache_dict[name]
        except KeyError:
            raise self._miss(key, name) from None

    def _full_name(self, key: Key) -> str:
        if isinstance(key, str):
            return key if key in self.cache_dict else get_act_name(key)
        if not isinstance(key, tuple) or not 1 <= len(key) <= 3 or not isinstance(key[0], str):
            raise UnknownName(f"A key is a name, or (name, layer) or (name, layer, part of the layer), not {key!r}.")
        name, layer, part = (*key, None, None)[:3]
        n_layers = self.model.cfg.n_layers
        if layer is not None:
            if isinstance(layer, bool) or not hasattr(layer, "__index__"):
                raise UnknownName(f"The layer in a key is a whole number, not {layer!r}.")
            if not -n_layers <= int(layer) < n_layers:
                raise UnknownName(
                    f"There is no layer {layer}: {self.model.cfg.model_name} has layers 0 to {n_layers - 1} "
                    f"(or -{n_layers} to -1, from the end)."
                )
            layer = int(layer) % n_layers
        return get_act_name(name, layer, part)

    def _miss(self, key: Key, name: str) -> UnknownName:
        points = getattr(self.model, "hook_dict", {})
        if isinstance(key, str) and name not in points and get_act_name(key, 0) in points:
            return UnknownName(f"{key!r} of which layer? cache[{key!r}, 0] is that of the first.")
        if name in points:
            return UnknownName(
                f"{key!r} is {name!r}, which this run did not cache: it has {len(self)} of the model's activations. "
                f"run_with_cache(..., names_filter={name!r}) asks for it."
            )
        return unknown("activation", name, [*self.cache_dict, *points])

    def __contains__(self, key: object) -> bool:
        try:
            return self._full_name(key) in self.cache_dict  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return False

    # Two caches are one only if they are the same; and a view watches its cache by identity.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    # The whole

    @property
    def nbytes(self) -> int:
        """Memory that the activations take."""
        return sum(activation.numel() * activation.element_size() for activation in self.values())

    def to(self, device: torch.device | str) -> ActivationCache:
        """Move the activations to `device`, in place."""
        self.cache_dict = {name: activation.to(device) for name, activation in self.items()}
        return self

    def remove_batch_dim(self) -> ActivationCache:
        """Drop the batch dimension (of one), in place."""
        if self.has_batch_dim:
            for name, activation in self.items():
                if has_batch_axis(name) and activation.shape[0] != 1:
                    raise BadInput(
                        f"Only a batch of one can be dropped, but {name!r} has a batch of {activation.shape[0]}."
                    )
            self.cache_dict = {
                name: activation[0] if has_batch_axis(name) else activation for name, activation in self.items()
            }
            self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Slice | SliceInput) -> ActivationCache:
        """A cache of some of the prompts; this one stays as it is, and they share no memory.

        Parameters
        ----------
        batch_slice
            Which items of the batch, see `tl_widgets.math.Slice`; an int drops the batch dimension. What single
            experts did is left out: it does not say for which prompt.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache(torch.tensor([[3, 1, 4], [1, 5, 9]]))
        >>> cache.apply_slice_to_batch_dim((0, 1))["z", 0].shape, cache.apply_slice_to_batch_dim(1)["z", 0].shape
        (torch.Size([1, 3, 4, 4]), torch.Size([3, 4, 4]))
        """
        if not self.has_batch_dim:
            raise BadInput("This cache has no batch dimension to slice.")
        items = as_slice(batch_slice)
        sliced = copy.copy(self)
        sliced.cache_dict = self._of_items(items)
        sliced.has_batch_dim = items.mode != "int"
        sliced.tokens, sliced.mask = (
            None if known is None else keeping_axis(items).apply(known) for known in (self.tokens, self.mask)
        )
        return sliced

    def _of_items(self, items: Slice) -> MutableMapping[str, Tensor]:
        """The activations of some prompts."""
        n_items = next((len(activation) for name, activation in self.items() if has_batch_axis(name)), 0)
        return {
            name: _items_of(activation, n_items, items, has_batch_axis(name))
            for name, activation in self.items()
            if ".experts." not in name
        }

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Switch gradients on or off for *all* of torch, in this thread, with a warning; as ``torch.set_grad_enabled``.

        What is worked out from a cache needs no gradients, and without them memory is freed sooner.
        """
        warnings.warn(f"Gradients are now {'on' if mode else 'off'} everywhere, not in this cache alone.", stacklevel=2)
        torch.set_grad_enabled(mode)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to a safetensors file; `load` reads it again.

        Examples
        --------
        >>> import tempfile
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=8, d_head=4, act_fn="gelu", d_vocab=50))
        >>> logits, cache = model.run_with_cache([3, 1, 4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache.save(f"{folder}/cache.safetensors")
        ...     again = ActivationCache.load(f"{folder}/cache.safetensors", model)
        >>> torch.equal(again["pattern", 0], cache["pattern", 0])
        True
        """
        saving.write(self._saved(), self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any) -> ActivationCache:
        """Read a cache, of either kind, that `model` made (or one like it).

        Raises
        ------
        CannotLoad
            If the file is no cache, or not a whole one, or of a model of another shape.
        """
        saved = saving.read(path, model)
        kinds: dict[str, type[ActivationCache]] = {"full": ActivationCache}
        kinds |= {kind.kind: kind for kind in ActivationCache.__subclasses__()}
        if saved.kind not in kinds:
            raise unknown("kind of cache", saved.kind, kinds)
        return kinds[saved.kind]._from_saved(saved, model)

    def _saved(self) -> saving.Saved:
        about = {"pos_slice": self.positions.as_json()}
        return saving.Saved(self.kind, dict(self.cache_dict), self.has_batch_dim, self.tokens, self.mask, about)

    @classmethod
    def _from_saved(cls, saved: saving.Saved, model: Any) -> ActivationCache:
        positions = Slice.from_json(saved.about.get("pos_slice"))
        return ActivationCache(saved.activations, model, saved.has_batch_dim, saved.tokens, saved.mask, positions)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the view behind: a copy, or the same cache in another process, makes its own."""
        return self.__dict__ | {"_view": None}

    # For the eye

    def __repr__(self) -> str:
        return summary(self)

    @property
    def view(self) -> CacheView:
        """The one widget that shows this cache; read and set its selection: ``cache.view.layer``, ``.head``."""
        if self._view is None:
            from tl_widgets.views import CacheView

            self._view = CacheView(self)
        return self._view

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from tl_widgets.views import mimebundle

        return mimebundle(self, include=include, exclude=exclude)


def _items_of(activation: Tensor, n_items: int, items: Slice, has_axis: bool) -> Tensor:
    """Some prompts of ``[batch, ...]``, or of an activation with batch and position in one axis."""
    if has_axis:
        return items.apply(activation).clone()
    picked = items.apply(activation.unflatten(0, (n_items, -1))).clone()
    return picked if items.mode == "int" else picked.flatten(0, 1)
