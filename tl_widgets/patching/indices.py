"""Which places a sweep visits: ranges of layers, positions and heads, and their product."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.environment import library
from tl_widgets.errors import BadInput, unknown

_AXES = ("layer", "pos", "head", "head_index", "src_pos", "dest_pos")
_BY_KEY_VALUE_HEAD = ("k", "v", "key", "value")


def make_df_from_ranges(column_max_ranges: Sequence[int], column_names: Sequence[str]) -> Any:
    """Return a DataFrame with a row for every combination, the last column running fastest.

    Parameters
    ----------
    column_max_ranges
        How many values each column has, from 0 on.
    column_names
        What the columns are called.

    Examples
    --------
    >>> make_df_from_ranges([2, 2], ["layer", "pos"]).to_numpy().tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return _pandas("make_df_from_ranges").DataFrame(places(column_max_ranges), columns=list(column_names))


def _pandas(needed_by: str) -> ModuleType:
    return library("pandas", needed_by)


def places(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """All indices below `sizes`, the last running fastest."""
    return list(itertools.product(*map(range, sizes)))


def sizes_of(axes: Sequence[str], cfg: HookedTransformerConfig, n_pos: int, activation_name: str) -> tuple[int, ...]:
    """How many layers, positions or heads each axis has; keys and values may have fewer heads than queries."""
    n_heads = cfg.n_kv_hooked if activation_name in _BY_KEY_VALUE_HEAD else cfg.n_heads
    sizes = dict(zip(_AXES, (cfg.n_layers, n_pos, n_heads, n_heads, n_pos, n_pos), strict=True))
    for axis in axes:
        if axis not in sizes:
            raise unknown("index axis", axis, sizes)
    if not axes or axes[0] != "layer":
        raise BadInput(f"The first index axis is 'layer', not {axes[0] if axes else 'nothing'!r}.")
    return tuple(sizes[axis] for axis in axes)


def rows_of(index_df: Any) -> list[list[Any]]:
    """The rows of a DataFrame whose first column is the layer."""
    if "layer" not in index_df.columns or index_df.columns[0] != "layer":
        raise BadInput(f"The first column of index_df is 'layer', not {list(index_df.columns)[:1]}.")
    return [list(row) for row in index_df.itertuples(index=False, name=None)]


def frame(rows: Sequence[Sequence[int]], axes: Sequence[str]) -> Any:
    """The places of a sweep as a DataFrame, one column an axis."""
    return _pandas("return_index_df=True").DataFrame(rows, columns=list(axes))


def as_grid(values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Values in the order of `places` as a tensor with one axis each."""
    return values.reshape(*sizes)
