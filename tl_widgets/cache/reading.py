"""What the mathematics knows of a cache: activations by key, picked by position, up to a layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_widgets.cache.summary import readable_bytes
from tl_widgets.environment import available_memory
from tl_widgets.errors import BadInput, BadType, UnknownName
from tl_widgets.math import Slice, SliceInput

Key = str | tuple

_MOST_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Reach:
    """How far into the model a decomposition goes: to the input of `layer`, or of its MLP; `n_layers` is the end."""

    layer: int
    n_layers: int
    mlp_input: bool = False

    @property
    def is_end(self) -> bool:
        """Whether this is the whole model."""
        return self.layer == self.n_layers

    @property
    def n_attentions(self) -> int:
        """How many layers' attention has written by then."""
        return self.layer + self.mlp_input

    @property
    def norm(self) -> str:
        """Full name of the norm that reads the residual stream there."""
        return "ln_final" if self.is_end else f"blocks.{self.layer}.{'ln2' if self.mlp_input else 'ln1'}"

    @property
    def streams(self) -> tuple[str, str]:
        """Names of the residual stream that enters `layer`: its own, and what the layer before calls it."""
        pre, post = f"blocks.{self.layer}.hook_resid_pre", f"blocks.{self.layer - 1}.hook_resid_post"
        return (post, pre) if self.is_end else (pre, post)


class Readable(Mapping[str, Tensor]):
    """A cache as its mathematics sees it.

    Activations are read by key only, one layer's before the next one's: a cache may work them out when they are read.
    """

    cache_dict: MutableMapping[str, Tensor]
    model: Any
    has_batch_dim: bool
    positions: Slice  # those of the run's that it holds

    @abstractmethod
    def __getitem__(self, key: Key) -> Tensor: ...

    def _reach(self, layer: int | None, mlp_input: bool = False, *, whole_model_has_no_mlp: bool = True) -> Reach:
        """Where `layer` is: None, -1 and n_layers are the end of the model.

        There `mlp_input` has no meaning: an error, or counts nothing where ``whole_model_has_no_mlp=False``.
        """
        n_layers = self.model.cfg.n_layers
        if isinstance(layer, bool) or not (layer is None or hasattr(layer, "__index__")):
            raise BadType(f"layer is a whole number or None (the end of the model), not {layer!r}.")
        at = n_layers if layer is None or int(layer) == -1 else int(layer)
        if not 0 <= at <= n_layers:
            raise UnknownName(
                f"There is no layer {layer}: layers go from 0 to {n_layers - 1}, and {n_layers}, -1 or None is the end "
                f"of the model. (Here a layer is a place to stop at, and other negative numbers say nothing.)"
            )
        if mlp_input and at == n_layers:
            if whole_model_has_no_mlp:
                raise UnknownName(
                    f"mlp_input=True asks for the input of one layer's MLP: say which, layer=0 to {n_layers - 1}."
                )
            mlp_input = False
        return Reach(at, n_layers, bool(mlp_input))

    def _layer(self, layer: int) -> int:
        """The number of one layer; negative ones count from the end."""
        n_layers = self.model.cfg.n_layers
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or not -n_layers <= layer < n_layers:
            raise UnknownName(f"There is no layer {layer!r}: layers go from 0 to {n_layers - 1} (-1 is the last).")
        return int(layer) % n_layers

    def _has_resid_mid(self) -> bool:
        """Whether blocks have a residual stream between attention and MLP (parallel ones add both at once)."""
        cfg = self.model.cfg
        return not (cfg.attn_only or cfg.parallel_attn_mlp)

    def _embedding_names(self) -> list[str]:
        """What the first residual stream is made of; a shortformer's positions are no part of it."""
        has_positions = self.model.cfg.positional_embedding_type == "standard"
        return ["hook_embed", "hook_pos_embed"] if has_positions else ["hook_embed"]

    def _at(self, name: str, positions: Slice, trailing: int = 1) -> Tensor:
        """The activation at `positions`; it has `trailing` dimensions behind its position."""
        activation = self[name]
        if positions.mode == "identity":
            return activation
        axis = int(self.has_batch_dim)
        if activation.ndim != axis + 1 + trailing:
            raise BadInput(
                f"{name!r} is {list(activation.shape)} and has no position left to pick: pos_slice was an int when it "
                "was recorded. Leave pos_slice out here."
            )
        return positions.apply(activation, dim=axis)

    def _stream_name(self, reach: Reach) -> str:
        """Full name of the residual stream that enters the layer, as far as it was cached."""
        own, before = reach.streams
        return before if own not in self and before in self else own

    def _stream(self, reach: Reach, positions: Slice) -> Tensor:
        """The whole that the components up to `reach` sum to, ``[*batch_and_pos, d_model]``."""
        stream = self._at(self._stream_name(reach), positions)
        return stream + self._at(attn_out(reach.layer), positions) if reach.mlp_input else stream

    def _require(self, names: Iterable[str]) -> None:
        """Say all that a call reads and this cache lacks, before any work is done."""
        missing = [name for name in names if name not in self]
        if not missing:
            return
        if len(missing) == 1 or not all(name in self.model.hook_dict for name in missing):
            self[missing[0]]  # one alone, or one that no run of this model has: the cache's own words say it best
        shown = ", ".join(map(repr, missing[:_MOST_NAMES_SHOWN]))
        more = f" and {len(missing) - _MOST_NAMES_SHOWN} more" if len(missing) > _MOST_NAMES_SHOWN else ""
        ends = sorted({name.split(".", 2)[-1] for name in missing})
        raise UnknownName(
            f"This reads {shown}{more}, which this run did not cache. A names_filter that adds them: "
            f"lambda name: name.endswith({tuple(ends) if len(ends) > 1 else ends[0]!r})."
        )


def attn_out(layer: int) -> str:
    """Full name of what a layer's attention adds to the residual stream."""
    return f"blocks.{layer}.hook_attn_out"


def mlp_out(layer: int) -> str:
    """Full name of what a layer's MLP adds to the residual stream."""
    return f"blocks.{layer}.hook_mlp_out"


def room_for(shape: Sequence[int], like: Tensor, cheaper: str) -> Tensor:
    """Uninitialised memory of this shape, dtype and device, if there is room for it; `cheaper` is what to ask for else.

    Asked for before it is touched: the operating system grants more than it has, and ends the process later.
    """
    n_bytes = math.prod(shape) * like.element_size()
    room = available_memory(like.device)
    if room is not None and n_bytes > room:
        raise BadInput(
            f"A result {list(shape)} of {like.dtype} takes {n_bytes:,} bytes ({readable_bytes(n_bytes)}), and "
            f"{like.device} has {readable_bytes(room)} left. {cheaper}"
        )
    return like.new_empty(shape)


def as_slice(given: Slice | SliceInput) -> Slice:
    """A `Slice` of what a caller gave; an int drops the dimension."""
    return given if isinstance(given, Slice) else Slice(given)


def keeping_axis(given: Slice | SliceInput) -> Slice:
    """A `Slice` of what a caller gave; an int picks one and keeps the dimension."""
    picked = as_slice(given)
    return Slice([picked.slice]) if picked.mode == "int" else picked
