"""The key/value cache: what a sequence's continuation needs of what came before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput


class _Growing:
    """A tensor that grows along one dimension, in memory that doubles: adding a token does not copy the past.

    Parameters
    ----------
    start
        What is there already; empty along `dim` is the usual, and then the first addition decides all other sizes.
    dim
        The dimension that grows.
    """

    def __init__(self, start: Tensor, dim: int) -> None:
        self._memory = start
        self._dim = dim
        self._length = start.shape[dim]

    @property
    def value(self) -> Tensor:
        return self._memory.narrow(self._dim, 0, self._length)

    def followed_by(self, new: Tensor) -> Tensor:
        """Return the whole with `new` at its end, and stay as it was; one sequence may be continued in many ways."""
        if self._length == 0:
            return new
        past = self.value
        if len(past) != len(new):
            if len(past) != 1:
                raise BadInput(f"The cache holds {len(past)} sequences, but {len(new)} are to be continued.")
            past = past.expand(len(new), *past.shape[1:])
        return torch.cat([past, new.to(past.dtype)], dim=self._dim)

    def append(self, new: Tensor) -> Tensor:
        """Return the whole with `new` at its end, and stay so."""
        length = self._length + new.shape[self._dim]
        if new.requires_grad or self._memory.requires_grad:
            # Backward needs what was there at the time, so nothing may be written in place.
            self._memory = self.followed_by(new)
        elif self._length and len(new) == len(self._memory) and self._has_room_for(length):
            self._memory.narrow(self._dim, self._length, new.shape[self._dim]).copy_(new)
        else:
            self._memory = self._roomier(self.followed_by(new), length)
        self._length = length
        return self.value

    def _has_room_for(self, length: int) -> bool:
        # What was made under inference_mode may not be written to outside of it.
        is_writable = torch.is_inference_mode_enabled() or not self._memory.is_inference()
        return is_writable and length <= self._memory.shape[self._dim]

    def _roomier(self, value: Tensor, length: int) -> Tensor:
        shape = list(value.shape)
        shape[self._dim] = 2 * length
        memory = torch.empty(shape, dtype=value.dtype, device=value.device)
        memory.narrow(self._dim, 0, length).copy_(value)
        return memory


class HookedTransformerKeyValueCacheEntry:
    """One layer's keys and values.

    Parameters
    ----------
    past_keys, past_values
        ``[batch, pos, kv_head, d_head]``; rotary positions are turned into the keys already.
    frozen
        Whether `append` leaves the entry as it is.
    """

    def __init__(self, past_keys: Tensor, past_values: Tensor, frozen: bool = False) -> None:
        self.past_keys = past_keys
        self.past_values = past_values
        self.frozen = frozen

    @classmethod
    def init_cache_entry(cls, cfg: Any, device: Any = None, batch_size: int = 1) -> HookedTransformerKeyValueCacheEntry:
        """Return an empty entry for a model with config `cfg`."""
        n_heads = cfg.n_key_value_heads or cfg.n_heads
        empty = torch.empty(batch_size, 0, n_heads, cfg.d_head, dtype=cfg.dtype, device=device)
        return cls(empty, empty.clone())

    # In memory a head's positions lie together, which is how attention reads them.

    @property
    def past_keys(self) -> Tensor:
        """``[batch, pos, kv_head, d_head]``."""
        return self._keys.value.transpose(1, 2)

    @past_keys.setter
    def past_keys(self, keys: Tensor) -> None:
        self._keys = _Growing(keys.transpose(1, 2), dim=2)

    @property
    def past_values(self) -> Tensor:
        """``[batch, pos, kv_head, d_head]``."""
        return self._values.value.transpose(1, 2)

    @past_values.setter
    def past_values(self, values: Tensor) -> None:
        self._values = _Growing(values.transpose(1, 2), dim=2)

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones ``[batch, pos, kv_head, d_head]`` last; kept unless frozen."""
        keys, values = new_keys.transpose(1, 2), new_values.transpose(1, 2)
        if self.frozen:
            keys, values = self._keys.followed_by(keys), self._values.followed_by(values)
        else:
            keys, values = self._keys.append(keys), self._values.append(values)
        return keys.transpose(1, 2), values.transpose(1, 2)


class HookedTransformerKeyValueCache:
    """Keys, values and padding of the tokens so far: pass it to ``forward(past_kv_cache=...)`` to go on from there.

    Parameters
    ----------
    entries
        One for each layer.
    previous_attention_mask
        ``[batch, pos]``, 0 for padding.
    frozen
        Whether runs leave the cache as it is, so that one beginning serves many continuations (also a batch of them,
        where the cache holds one sequence).

    Examples
    --------
    >>> import torch
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> cache = HookedTransformerKeyValueCache.init_cache(model.cfg, model.cfg.device)
    >>> whole = model([3, 1, 4, 1, 5])
    >>> first, rest = model([3, 1, 4], past_kv_cache=cache), model([1, 5], past_kv_cache=cache)
    >>> torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)
    """

    def __init__(
        self,
        entries: Sequence[HookedTransformerKeyValueCacheEntry],
        previous_attention_mask: Tensor,
        frozen: bool = False,
    ) -> None:
        self.entries = list(entries)
        self.previous_attention_mask = previous_attention_mask
        self.frozen = False
        if frozen:
            self.freeze()

    @classmethod
    def init_cache(cls, cfg: Any, device: Any = None, batch_size: int = 1) -> HookedTransformerKeyValueCache:
        """Return an empty cache for a model with config `cfg`."""
        return cls(
            [
                HookedTransformerKeyValueCacheEntry.init_cache_entry(cfg, device, batch_size)
                for _ in range(cfg.n_layers)
            ],
            torch.empty(batch_size, 0, dtype=torch.long, device=device),
        )

    @property
    def previous_attention_mask(self) -> Tensor:
        """``[batch, pos]``, 0 for padding."""
        return self._mask.value

    @previous_attention_mask.setter
    def previous_attention_mask(self, mask: Tensor) -> None:
        self._mask = _Growing(mask, dim=1)

    def append_attention_mask(self, attention_mask: Tensor) -> Tensor:
        """``[batch, pos]`` of all tokens, the new ones last; kept unless frozen."""
        return self._mask.followed_by(attention_mask) if self.frozen else self._mask.append(attention_mask)

    def snapshot(self) -> HookedTransformerKeyValueCache:
        """Return a frozen copy of what is here now."""
        return self._of_each(torch.clone)

    @property
    def nbytes(self) -> int:
        """Memory of keys and values."""
        return sum(entry.past_keys.nbytes + entry.past_values.nbytes for entry in self.entries)

    def for_examples(self, pick: Callable[[Tensor], Tensor]) -> HookedTransformerKeyValueCache:
        """Return a frozen cache of some of the sequences: `pick` takes them from a tensor's first dimension."""
        return self._of_each(pick)

    def _of_each(self, change: Callable[[Tensor], Tensor]) -> HookedTransformerKeyValueCache:
        entries = [
            HookedTransformerKeyValueCacheEntry(change(entry.past_keys), change(entry.past_values))
            for entry in self.entries
        ]
        return HookedTransformerKeyValueCache(entries, change(self.previous_attention_mask), frozen=True)

    def freeze(self) -> None:
        """Stay as it is from now on."""
        self._set_frozen(True)

    def unfreeze(self) -> None:
        """Grow again."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen
        for entry in self.entries:
            entry.frozen = frozen

    def __getitem__(self, idx: int) -> HookedTransformerKeyValueCacheEntry:
        return self.entries[idx]

    def __len__(self) -> int:
        return len(self.entries)


# The names since version 3.
TransformerLensKeyValueCache = HookedTransformerKeyValueCache
TransformerLensKeyValueCacheEntry = HookedTransformerKeyValueCacheEntry
