"""Setters: which part of the corrupted run's activation is taken from the clean run, for one index.

Each sees whole activations, batch first, writes into the corrupted one and returns it. What it writes is a region that
its index names; `REGIONS` says which, so that a sweep knows what a patch touches before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tl_widgets.errors import BadInput

PatchSetter = Callable[[Tensor, Sequence[int], Tensor], Any]
Region = tuple[Any, ...]  # ints and slices, of the axes behind the batch

_ALL = slice(None)


def layer_pos_patch_setter(corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor) -> Tensor:
    """One position of ``[batch, pos, ...]``; `index` is ``(layer, pos)``.

    Examples
    --------
    >>> import torch
    >>> layer_pos_patch_setter(torch.zeros(1, 3, 2), (0, 1), torch.ones(1, 3, 2))
    tensor([[[0., 0.],
             [1., 1.],
             [0., 0.]]])
    """
    return _take(layer_pos_patch_setter, corrupted_activation, index, clean_activation)


def layer_pos_head_vector_patch_setter(
    corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor
) -> Tensor:
    """One head at one position of ``[batch, pos, head, d_head]``; `index` is ``(layer, pos, head)``."""
    return _take(layer_pos_head_vector_patch_setter, corrupted_activation, index, clean_activation)


def layer_head_vector_patch_setter(
    corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor
) -> Tensor:
    """One head at all positions of ``[batch, pos, head, d_head]``; `index` is ``(layer, head)``."""
    return _take(layer_head_vector_patch_setter, corrupted_activation, index, clean_activation)


def layer_head_pattern_patch_setter(
    corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor
) -> Tensor:
    """One head of ``[batch, head, dest_pos, src_pos]``; `index` is ``(layer, head)``."""
    return _take(layer_head_pattern_patch_setter, corrupted_activation, index, clean_activation)


def layer_head_pos_pattern_patch_setter(
    corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor
) -> Tensor:
    """One head, one destination, of ``[batch, head, dest_pos, src_pos]``: `index` is ``(layer, head, dest)``."""
    return _take(layer_head_pos_pattern_patch_setter, corrupted_activation, index, clean_activation)


def layer_head_dest_src_pos_pattern_patch_setter(
    corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor
) -> Tensor:
    """One weight of ``[batch, head, dest_pos, src_pos]``; `index` is ``(layer, head, dest, src)``."""
    return _take(layer_head_dest_src_pos_pattern_patch_setter, corrupted_activation, index, clean_activation)


def layer_patch_setter(corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor) -> Tensor:
    """All of a layer's activation; `index` is ``(layer,)``."""
    return _take(layer_patch_setter, corrupted_activation, index, clean_activation)


# What an index is called, and the region behind the batch that it names.
REGIONS: dict[Any, tuple[tuple[str, ...], Callable[..., Region]]] = {
    layer_patch_setter: (("layer",), lambda: ()),
    layer_pos_patch_setter: (("layer", "pos"), lambda pos: (pos,)),
    layer_pos_head_vector_patch_setter: (("layer", "pos", "head"), lambda pos, head: (pos, head)),
    layer_head_vector_patch_setter: (("layer", "head"), lambda head: (_ALL, head)),
    layer_head_pattern_patch_setter: (("layer", "head"), lambda head: (head,)),
    layer_head_pos_pattern_patch_setter: (("layer", "head", "dest"), lambda head, dest: (head, dest)),
    layer_head_dest_src_pos_pattern_patch_setter: (
        ("layer", "head", "dest", "src"),
        lambda head, dest, src: (head, dest, src),
    ),
}


def region_of(setter: PatchSetter, index: Sequence[int]) -> Region | None:
    """Which region `setter` takes from the clean run; None where the setter is not one of ours, and does not say."""
    if setter not in REGIONS:
        return None
    names, region = REGIONS[setter]
    if len(index) != len(names):
        raise BadInput(f"{setter.__name__} needs an index ({', '.join(names)}), not {tuple(index)}.")
    return region(*index[1:])


def _take(setter: PatchSetter, corrupted: Tensor, index: Sequence[int], clean: Tensor) -> Tensor:
    region = (_ALL, *(region_of(setter, index) or ()))
    check_alike(corrupted, clean)
    corrupted[region] = clean[region].to(corrupted.device)
    return corrupted


def check_alike(corrupted: Tensor, clean: Tensor) -> None:
    """Raise unless a region of one is a region of the other; a clean batch of one serves any batch."""
    if clean.shape[1:] != corrupted.shape[1:] or clean.shape[:1] not in (corrupted.shape[:1], (1,)):
        hint = " A clean cache keeps its batch dimension." if clean.ndim == corrupted.ndim - 1 else ""
        raise BadInput(
            f"The clean activation is {list(clean.shape)}, but the corrupted run's is {list(corrupted.shape)}: the two "
            f"prompts must have as many tokens.{hint}"
        )
