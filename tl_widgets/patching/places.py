"""What a pair can patch: a table of places, the axes to sweep them by, and the setters that do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_widgets.errors import BadInput, unknown
from tl_widgets.patching import setters
from tl_widgets.patching.setters import PatchSetter

_STREAM: dict[tuple[str, ...], PatchSetter] = {
    ("layer", "pos"): setters.layer_pos_patch_setter,
    ("layer",): setters.layer_patch_setter,
}
_HEADS: dict[tuple[str, ...], PatchSetter] = {
    ("layer", "head"): setters.layer_head_vector_patch_setter,
    ("layer", "pos", "head"): setters.layer_pos_head_vector_patch_setter,
    ("layer", "pos"): setters.layer_pos_patch_setter,
    ("layer",): setters.layer_patch_setter,
}
_PATTERNS: dict[tuple[str, ...], PatchSetter] = {
    ("layer", "head"): setters.layer_head_pattern_patch_setter,
    ("layer", "head", "dest_pos"): setters.layer_head_pos_pattern_patch_setter,
    ("layer", "head", "dest_pos", "src_pos"): setters.layer_head_dest_src_pos_pattern_patch_setter,
    ("layer",): setters.layer_patch_setter,
}

# Activation -> axes -> setter; the first axes are what a sweep is by where nobody says.
PLACES: dict[str, dict[tuple[str, ...], PatchSetter]] = {
    "resid_pre": _STREAM,
    "resid_mid": _STREAM,
    "resid_post": _STREAM,
    "attn_out": _STREAM,
    "mlp_out": _STREAM,
    "z": _HEADS,
    "q": _HEADS,
    "k": _HEADS,
    "v": _HEADS,
    "pattern": _PATTERNS,
}
# Several sweeps of one shape, as one result.
TOGETHER: dict[str, tuple[str, ...]] = {
    "head_all": ("z", "q", "k", "v", "pattern"),
    "block_all": ("resid_pre", "attn_out", "mlp_out"),
}


def setter_of(place: str, by: Sequence[str] | None) -> tuple[tuple[str, ...], PatchSetter]:
    """The axes of a sweep, in the order of its index, and its setter.

    Raises
    ------
    UnknownName
        If nothing is called `place`; the nearest name is suggested.
    BadInput
        If it cannot be swept by these axes.
    """
    if place not in PLACES:
        raise unknown("place to patch", place, [*PLACES, *TOGETHER])
    ways = PLACES[place]
    if by is None:
        axes = next(iter(ways))
        return axes, ways[axes]
    wanted = (by,) if isinstance(by, str) else tuple(by)
    for axes, setter in ways.items():
        if set(axes) == set(wanted) and len(axes) == len(wanted):
            return axes, setter
    known = " or ".join(repr(axes) for axes in ways)
    raise BadInput(f"{place!r} is patched by {known}, not by {wanted}.")


def index_of(place: str, where: Mapping[str, Any]) -> tuple[PatchSetter, tuple[int, ...]]:
    """The setter and the index of one place, such as ``("z", {"layer": 9, "head": 1})``."""
    axes, setter = setter_of(place, tuple(where))
    return setter, tuple(int(where[axis]) for axis in axes)
