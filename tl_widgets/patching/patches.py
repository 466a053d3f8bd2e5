"""A patch is data: where it acts, which positions it changes, and what it puts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.cache.names import get_act_name
from tl_widgets.errors import BadInput, unknown
from tl_widgets.hooks.recording import position_axis
from tl_widgets.patching.setters import PatchSetter, Region, check_alike, region_of


@dataclass(frozen=True)
class Sites:
    """Activations of one kind, one in each layer, and the setter that patches them.

    Parameters
    ----------
    activation_name
        The field's shorthand: ``"resid_pre"``, ``"z"``, ``"pattern"``, ...
    setter
        See `tl_widgets.patching.setters`; custom ones are ``setter(corrupted_activation, index, clean_activation)``.
    clean
        Where clean activations come from: a cache, or any mapping from full names.
    """

    activation_name: str
    setter: PatchSetter
    clean: Mapping[Any, Tensor]

    def name(self, layer: int, model: Any) -> str:
        """Full name of the activation in `layer`."""
        name = get_act_name(self.activation_name, layer)
        if name not in model.hook_dict:
            n_layers = model.cfg.n_layers
            if layer not in range(n_layers) and get_act_name(self.activation_name, 0) in model.hook_dict:
                raise BadInput(f"There is no layer {layer}: this model has layers 0 to {n_layers - 1}.")
            raise unknown("activation", name, model.hook_dict)
        return name

    def clean_activation(self, name: str) -> Tensor:
        """What the clean run has at `name`."""
        try:
            return self.clean[name]
        except KeyError as miss:
            if isinstance(miss, ValueError):  # an error of ours, that says what is there
                raise
            raise unknown("clean activation", name, self.clean) from None


@dataclass(frozen=True)
class Patch:
    """One patch of a sweep that changes something.

    Attributes
    ----------
    place
        Its number among the sweep's indices.
    layer
        Where it acts.
    start, stop
        It changes positions from `start` up to `stop` of its activation, and nothing outside.
    region
        What it takes from the clean activation, behind the batch.
    rows
        What a custom setter made of these positions, ``[batch, ...]``; then there is no `region`.
    """

    place: int
    layer: int
    start: int
    stop: int
    region: Region | None = None
    rows: Tensor | None = None


class Activation:
    """One layer's activation in both runs, and what patches make of it.

    Parameters
    ----------
    corrupted, clean
        ``[batch, ...]``, whole.
    parted
        Before this position the runs are the same but for rounding; see `CorruptedRun.parted_from`.
    """

    def __init__(self, name: str, corrupted: Tensor, clean: Tensor, parted: int) -> None:
        self.axis = position_axis(name, corrupted.ndim) % corrupted.ndim
        self.corrupted = corrupted
        self.clean = clean.to(corrupted.device)
        self.aligned = _aligned(corrupted, self.clean, self.axis, parted)
        self._differs: np.ndarray | None = None

    def patch(self, place: int, layer: int, index: Sequence[Any], setter: PatchSetter, keep_all: bool) -> Patch | None:
        """Return the patch that `setter` makes for `index`, or None where it changes nothing.

        Parameters
        ----------
        keep_all
            Count what is written as changed, also where it is what was there.
        """
        region = region_of(setter, index)
        if region is None:
            return self._by_comparison(place, layer, index, setter, keep_all)
        check_alike(self.corrupted, self.clean)
        region = tuple(self._from_the_start(each, axis) for axis, each in enumerate(region, start=1))
        differs = self._map(keep_all)
        if not differs[region].any():
            return None
        return Patch(place, layer, *self._span(differs, region), region=region)

    def _span(self, differs: np.ndarray, region: Region) -> tuple[int, int]:
        """First of the positions that differ within `region`, and behind the last."""
        position = region[self.axis - 1] if len(region) >= self.axis else None
        if isinstance(position, int):
            return position, position + 1
        changed = np.zeros_like(differs)
        changed[region] = differs[region]
        return _ends(np.moveaxis(changed, self.axis - 1, 0).reshape(differs.shape[self.axis - 1], -1).any(axis=-1))

    def _from_the_start(self, each: Any, axis: int) -> Any:
        if isinstance(each, slice):
            return each
        size = self.corrupted.shape[axis]
        if not -size <= each < size:
            raise BadInput(
                f"There is no {each} on axis {axis} of the activation, which is {list(self.corrupted.shape)}."
            )
        return int(each) % size

    def _map(self, keep_all: bool) -> np.ndarray:
        """Where the runs differ, for any example; the axes are those behind the batch."""
        if self._differs is None:
            everywhere = torch.ones_like(self.corrupted, dtype=torch.bool)
            self._differs = (everywhere if keep_all else self.clean != self.aligned).any(0).cpu().numpy()
        return self._differs

    def _by_comparison(
        self, place: int, layer: int, index: Sequence[Any], setter: PatchSetter, keep_all: bool
    ) -> Patch | None:
        patched = self.aligned.clone()
        returned = setter(patched, index, self.clean)
        patched = patched if returned is None else returned
        if not isinstance(patched, Tensor) or patched.shape != self.corrupted.shape:
            shape = list(patched.shape) if isinstance(patched, Tensor) else type(patched).__name__
            raise BadInput(
                f"The patch setter returned {shape} for the index {list(index)}: it returns the corrupted activation, "
                f"{list(self.corrupted.shape)}, with the patch in it."
            )
        span = (0, patched.shape[self.axis])
        if not keep_all:
            changed = (patched != self.aligned).movedim(self.axis, 0).flatten(1).any(-1).cpu().numpy()
            if not changed.any():
                return None
            span = _ends(changed)
        rows = patched.to(self.corrupted.dtype).narrow(self.axis, span[0], span[1] - span[0]).clone()
        return Patch(place, layer, *span, rows=rows)

    def patched(self, patches: Sequence[Patch], start: int, stop: int) -> Tensor:
        """Positions `start` to `stop` of the activation with each patch in it, ``[n_patches * batch, ...]``."""
        length = stop - start
        batch = len(self.corrupted)
        corrupted = self.corrupted.narrow(self.axis, start, length)
        rows = corrupted.repeat(len(patches), *[1] * (corrupted.ndim - 1))
        clean = self.clean.narrow(self.axis, start, length)
        for i, patch in enumerate(patches):
            mine = rows[i * batch : (i + 1) * batch]
            if patch.rows is not None:
                first, behind = max(patch.start, start), min(patch.stop, stop)
                changed = patch.rows.narrow(self.axis, first - patch.start, behind - first)
                mine.narrow(self.axis, first - start, behind - first).copy_(changed)
                continue
            region = (
                slice(None),
                *(self._shifted(each, axis, start) for axis, each in enumerate(patch.region or (), 1)),
            )
            mine[region] = clean[region].to(mine.dtype)
        return rows

    def _shifted(self, each: Any, axis: int, start: int) -> Any:
        return each - start if axis == self.axis and not isinstance(each, slice) else each


def _aligned(corrupted: Tensor, clean: Tensor, axis: int, parted: int) -> Tensor:
    """The corrupted activation, with the clean one's rounding where both stand for the same number.

    A cache of everything and a cache of the residual stream come from different attention kernels: without this, no
    two values would be equal.
    """
    if parted == 0 or clean.shape != corrupted.shape:
        return corrupted
    before, clean_before = corrupted.narrow(axis, 0, parted), clean.narrow(axis, 0, parted)
    # Somebody may have changed the cache, or its model: then the same tokens do not make the same numbers.
    rounding = 64 * torch.finfo(corrupted.dtype).eps if corrupted.is_floating_point() else 0.0
    finite = before.isfinite() & clean_before.isfinite()
    scale = before.abs().where(finite, torch.zeros_like(before)).amax(-1, keepdim=True)
    if not bool((((before - clean_before).abs() <= rounding * scale) | (before == clean_before)).all()):
        return corrupted
    aligned = corrupted.clone()
    aligned.narrow(axis, 0, parted).copy_(clean_before)
    return aligned


def _ends(changed: Any) -> tuple[int, int]:
    """First and behind the last of what is True."""
    (at,) = changed.nonzero()
    return int(at[0]), int(at[-1]) + 1
