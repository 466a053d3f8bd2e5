"""How activations get from a running model into a cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.hooks.point import HookPoint
from tl_widgets.math.slice import Slice

# Activations with a head dimension after the position.
_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result", "hook_rot_q", "hook_rot_k")
_PER_HEAD_INPUT = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in")
_BY_QUERY_AND_KEY = ("hook_pattern", "hook_attn_scores")

# Activations of single tokens, or of single heads at single tokens: [batch * pos, ...], [batch * pos * head, ...].
_FLAT = re.compile(r"\.(experts\.\d+|[qk]_norm)\.|\.hook_expert_(weights|indices)(_grad)?$")


class Recorder:
    """Hooks that write into `cache` what passes their points: detached, and safe from later in-place edits.

    Parameters
    ----------
    private
        Copy every activation. Otherwise only those are copied whose memory somebody else can reach: a second point
        that passes on the same tensor, the model's inputs (`stay_apart_from`) and its output (`part_from`).
    """

    only_records = True  # see `may_edit`

    def __init__(
        self,
        cache: dict[str, Tensor],
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        pos_slice: Slice | None = None,
        private: bool = True,
    ) -> None:
        self.cache = cache
        self.device = device
        self.remove_batch_dim = remove_batch_dim
        self.pos_slice = pos_slice or Slice()
        self.private = private
        self._storages: set[int] = set()  # of what `cache` holds

    def activation(self, tensor: Tensor, hook: HookPoint) -> None:
        """Record the activation at `hook`."""
        self.cache[hook.name or ""] = self._keep(tensor, hook.name or "")

    def gradient(self, tensor: Tensor, hook: HookPoint) -> None:
        """Record the gradient at `hook`, as ``<name>_grad``."""
        self.cache[f"{hook.name}_grad"] = self._keep(tensor, hook.name or "", always_copy=True)

    def presented(self, tensor: Tensor, name: str) -> Tensor:
        """Slice `tensor` and bring it to the cache's device; memory is shared where it can be."""
        kept = self._sliced(tensor.detach(), name)
        return kept if self.device is None else kept.to(self.device)

    def _keep(self, tensor: Tensor, name: str, always_copy: bool = False) -> Tensor:
        kept = self.presented(tensor, name)
        storage = tensor.untyped_storage()
        partial = kept.nbytes < storage.nbytes()  # a slice must not keep the whole alive
        is_alias = kept.untyped_storage().data_ptr() == storage.data_ptr()
        if is_alias and (self.private or always_copy or partial or storage.data_ptr() in self._storages):
            kept = kept.clone()
        self._storages.add(kept.untyped_storage().data_ptr())
        return kept

    def _sliced(self, tensor: Tensor, name: str) -> Tensor:
        if not has_batch_axis(name):
            return tensor  # whole: its rows are not positions, and do not say whose they are
        if self.remove_batch_dim:
            if tensor.shape[0] != 1:
                raise BadInput(
                    f"remove_batch_dim=True needs a batch of one, but {name!r} has a batch of {tensor.shape[0]}."
                )
            tensor = tensor[0]
        if self.pos_slice.mode == "identity":
            return tensor
        return self.pos_slice.apply(tensor, dim=position_axis(name, tensor.ndim))

    def stay_apart_from(self, values: Iterable[Any]) -> None:
        """Copy what shares memory with the tensors among `values`, which are somebody else's to edit."""
        self._storages |= {value.untyped_storage().data_ptr() for value in values if isinstance(value, Tensor)}

    def part_from(self, output: Any) -> None:
        """Copy what the cache shares with the model's output, which is the caller's to edit."""
        outputs = output if isinstance(output, (tuple, list)) else [output]
        shared = {out.untyped_storage().data_ptr() for out in outputs if isinstance(out, Tensor)}
        for name, kept in self.cache.items():
            if kept.untyped_storage().data_ptr() in shared:
                self.cache[name] = kept.clone()


def has_batch_axis(name: str) -> bool:
    """Whether the activation called `name` starts with the batch; a few have batch and position in one axis."""
    return _FLAT.search(name) is None


def grows_with_the_square(name: str) -> bool:
    """Whether the activation called `name` has a number for each pair of positions."""
    return name.rsplit(".", 1)[-1] in _BY_QUERY_AND_KEY


def position_axis(name: str, ndim: int) -> int:
    """Return the axis (from the end) that holds the position in the activation called `name`.

    Patterns and scores ``[batch, head, query_pos, key_pos]`` are sliced by query.
    """
    point = name.rsplit(".", 1)[-1]
    if point == "hook_tokens":
        return -1
    if point in _BY_QUERY_AND_KEY:
        return -2
    if point in _PER_HEAD or point in _PER_HEAD_INPUT:
        return -3
    if point in ("hook_scale", "hook_normalized") and ndim >= 4:  # of split inputs: [batch, pos, head, ...]
        return -3
    return -2
