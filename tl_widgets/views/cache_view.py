"""`CacheView`: the attention heads of an `ActivationCache`, to explore in a cell."""

from __future__ import annotations

import sys
from typing import Any

import torch
import traitlets
from torch import Tensor

from tl_widgets.cache import ActivationCache, get_act_name
from tl_widgets.errors import BadInput
from tl_widgets.text import pieces
from tl_widgets.views.base import Reply, View, float32_bytes, whole_number
from tl_widgets.views.thumbnails import pool, quantise, thumbnail_side

# Bytes of all thumbnails together; with one open pattern and the tokens the first message stays under 250 kB.
THUMBNAILS_BUDGET = 150_000
# Longest side of one exact piece: 128 x 128 float32 is 64 kB.
TILE = 128


class SelectionError(traitlets.TraitError, BadInput):
    """A layer, head, example or position that the view does not have."""


class CacheView(View):
    """Layers x heads of attention patterns, one of them large.

    Attributes
    ----------
    layer, head
        The selected head; set them and the page follows, click in the page and they change.
    example
        Which item of the batch is shown.
    position
        The query position whose attention is painted on the tokens.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> logits, cache = model.run_with_cache([3, 1, 4])
    >>> cache.view.layer, cache.view.head = 1, 2
    >>> cache.view.observe(lambda change: print("head", change.new), "head")
    >>> cache.view.head = 3
    head 3
    """

    bundle_name = "cache_view"

    spec = traitlets.Dict().tag(sync=True)
    thumbs = traitlets.Bytes().tag(sync=True)
    thumbs_example = traitlets.Int(0).tag(sync=True)
    opened = traitlets.Bytes().tag(sync=True)

    example = traitlets.Int(0).tag(sync=True, settable=True)
    layer = traitlets.Int(0).tag(sync=True, settable=True)
    head = traitlets.Int(0).tag(sync=True, settable=True)
    position = traitlets.Int(0).tag(sync=True, settable=True)

    def __init__(self, cache: ActivationCache) -> None:
        layers = layers_to_show(cache)
        batched = cache.has_batch_dim
        n_examples = cache["pattern", layers[0]].shape[0] if batched else 1
        n_heads, n_query, n_key = cache["pattern", layers[0]].shape[-3:]
        self._layers = layers
        self._sizes = {"example": n_examples, "head": n_heads, "position": n_query}
        side = thumbnail_side(len(layers) * n_heads, n_query, THUMBNAILS_BUDGET)
        self._thumb = (min(side, n_query), min(side, n_key))
        layer, head = _most_distinct_head(cache, layers)
        opened = pool(pattern(cache, 0, layer)[head], min(n_query, TILE), min(n_key, TILE))
        spec = {
            "model": cache.model.cfg.model_name,
            "n_layers": cache.model.cfg.n_layers,
            "n_heads": n_heads,
            "layers": layers,
            "n_query": n_query,
            "n_key": n_key,
            "examples": [_tokens(cache, example, n_key) for example in range(n_examples)],
            "thumb": list(self._thumb),
            "tile": TILE,
            "opened": {"example": 0, "layer": layer, "head": head, "shape": list(opened.shape)},
            "code": _name_of(cache),
            "batched": batched,
        }
        super().__init__(
            cache,
            spec=spec,
            thumbs=self._thumbnails(cache, 0),
            opened=float32_bytes(opened),
            layer=layer,
            head=head,
            position=_last_real_position(cache, 0, n_query),
        )

    def __repr__(self) -> str:
        selection = ", ".join(f"{name}={getattr(self, name)}" for name in ("layer", "head", "example", "position"))
        return f"CacheView({selection})"

    def hold(self) -> None:
        """Keep the cache alive from now on, and call it in copied code what the user calls it now."""
        super().hold()
        cache = self._subject()
        if cache is not None and self.spec["code"] != _name_of(cache):
            self.spec = {**self.spec, "code": _name_of(cache)}

    # Selection

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        n_layers = self.spec.get("n_layers", max(self._layers) + 1)
        layer = proposal.value + n_layers if proposal.value < 0 else proposal.value
        if layer not in self._layers:
            raise SelectionError(
                f"There is no pattern of layer {proposal.value} here; there is {_ranges(self._layers)}."
            )
        return layer

    @traitlets.validate("example", "head", "position")
    def _check_in_range(self, proposal: Any) -> int:
        name, size = proposal.trait.name, self._sizes[proposal.trait.name]
        if not -size <= proposal.value < size:
            raise SelectionError(f"There is no {name} {proposal.value} here: {name}s go from 0 to {size - 1}.")
        return proposal.value % size

    @traitlets.observe("example")
    def _follow_example(self, change: Any) -> None:
        if "spec" not in self._trait_values:
            return
        with self._lock, torch.no_grad():
            thumbs = self._thumbnails(self.subject, change.new)
            padding = self.spec["examples"][change.new]["padding"]
            last = _last_real_position(self.subject, change.new, self._sizes["position"])
        with self.hold_sync():
            self.thumbs = thumbs
            self.thumbs_example = change.new
            if self.position in padding:
                self.position = last

    # What the page asks for

    def _thumbnails(self, cache: ActivationCache, example: int) -> bytes:
        """One byte a cell, ``[layer, head, row, column]``; slices and pools on the cache's device."""
        small = [quantise(pool(pattern(cache, example, layer), *self._thumb)) for layer in self._layers]
        return torch.stack(small).cpu().numpy().tobytes()

    def _pattern(self, message: dict[str, Any]) -> Reply:
        """A window of one head's pattern: exact, or pooled to at most ``size``."""
        layer = whole_number(message, "layer", 0, self.spec["n_layers"])
        if layer not in self._layers:
            raise BadInput(f"There is no pattern of layer {layer} here; there is {_ranges(self._layers)}.")
        example = whole_number(message, "example", 0, self._sizes["example"])
        head = whole_number(message, "head", 0, self._sizes["head"])
        rows, cols = _window(message, "rows", self.spec["n_query"]), _window(message, "cols", self.spec["n_key"])
        weights = pattern(self.subject, example, layer)[head, rows, cols]
        size = message.get("size")
        if size is None:
            if max(weights.shape) > TILE:
                raise BadInput(f"An exact window is at most {TILE} x {TILE}, not {list(weights.shape)}: give a size.")
        else:
            if not isinstance(size, list) or len(size) != 2:
                raise BadInput(f"size is [rows, columns], not {size!r}.")
            most = [whole_number({"size": side}, "size", 1, TILE + 1) for side in size]
            weights = pool(weights, *(min(side, limit) for side, limit in zip(weights.shape, most, strict=True)))
        return {"shape": list(weights.shape)}, [float32_bytes(weights)]

    handlers = {"pattern": _pattern}


def layers_to_show(cache: ActivationCache) -> list[int]:
    """Layers whose whole pattern is cached; an error that says why if there is none."""
    n_dims = 4 if cache.has_batch_dim else 3
    whole = []
    for layer in range(cache.model.cfg.n_layers):
        name = get_act_name("pattern", layer)
        if name in cache:
            found = cache[name]
            if found.ndim == n_dims and found.shape[-2] == found.shape[-1]:
                whole.append(layer)
    if not whole:
        raise BadInput(
            "This cache has no attention pattern over all positions to show. Cache some: "
            'names_filter=lambda name: name.endswith("pattern"), and no pos_slice.'
        )
    return whole


def pattern(cache: ActivationCache, example: int, layer: int) -> Tensor:
    """``[head, query, key]`` of one item of the batch."""
    weights = cache["pattern", layer]
    return weights[example] if cache.has_batch_dim else weights


def _most_distinct_head(cache: ActivationCache, layers: list[int]) -> tuple[int, int]:
    """Where to begin: the head whose look back from the last position sets it most apart from its layer's others.

    (The first token and the last itself do not count, and what all heads of a layer look at cancels: both are where
    attention rests when it has nothing to do.)
    """
    last = _last_real_position(cache, 0, cache["pattern", layers[0]].shape[-1])
    rows = torch.stack([pattern(cache, 0, layer)[:, last].float().nan_to_num(0) for layer in layers])
    apart = (rows - rows.mean(dim=1, keepdim=True))[:, :, 1:last]
    if apart.shape[-1] == 0:
        return layers[0], 0
    row, head = divmod(int(apart.amax(-1).argmax()), rows.shape[1])
    return layers[row], head


def _last_real_position(cache: ActivationCache, example: int, n_pos: int) -> int:
    if cache.mask is None:
        return n_pos - 1
    real = cache.mask[example].nonzero()
    return int(real[-1]) if len(real) else n_pos - 1


def _tokens(cache: ActivationCache, example: int, n_key: int) -> dict[str, list]:
    """Tokens of one item as the page shows them; a piece of a character goes as its bytes."""
    tokenizer = getattr(cache.model, "tokenizer", None)
    ids = cache.tokens[example].tolist() if cache.tokens is not None else list(range(n_key))
    if tokenizer is None or cache.tokens is None:
        return {"text": [str(i) for i in ids], "id": ids, "special": [], "padding": []}
    text = [{"bytes": piece.hex(" ")} if isinstance(piece, bytes) else piece for piece in pieces(tokenizer, ids)]
    special_ids = set(tokenizer.all_special_ids)
    padding = [] if cache.mask is None else (cache.mask[example] == 0).nonzero().flatten().tolist()
    return {"text": text, "id": ids, "special": [i for i, t in enumerate(ids) if t in special_ids], "padding": padding}


def _name_of(cache: ActivationCache) -> str:
    """Return the variable in the notebook that holds this cache, so that copied code fetches from this one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    names = [name for name, value in shell.user_ns.items() if value is cache] if shell else []
    return next((name for name in names if not name.startswith("_")), "cache")


def _window(message: dict[str, Any], key: str, size: int) -> slice:
    ends = message.get(key)
    if not isinstance(ends, list) or len(ends) != 2:
        raise BadInput(f"{key} is [first, end], not {ends!r}.")
    first = whole_number({key: ends[0]}, key, 0, size)
    return slice(first, whole_number({key: ends[1]}, key, first + 1, size + 1))


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``"0 to 2, 5"``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
