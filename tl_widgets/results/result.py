"""`Result`: numbers that know their axes; select them by label, and take them on as a table or a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.environment import library
from tl_widgets.errors import BadInput, unknown
from tl_widgets.results.figure import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Values with named axes.

    Attributes
    ----------
    values
        One dimension an axis.
    axes
        Their names, such as ``("layer", "head")``.
    axis_labels
        For an axis, what its entries are called; an axis without labels has numbers.
    quantity
        What the values are, with their unit where they have one.

    Examples
    --------
    >>> from tl_widgets.results import layers_and_heads
    >>> norms = Result(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("layer", "head"), layers_and_heads(2, 2), "norm")
    >>> norms["L1H0"], norms["L1"].values
    (3.0, tensor([3., 4.]))
    >>> norms.top(2)
    [('L1H1', 4.0), ('L1H0', 3.0)]
    >>> (norms - 1)["L0H0"]
    0.0
    >>> norms
    Result: norm [layer 2, head 2]
      L1H1  4
      L1H0  3
      L0H1  2
      L0H0  1
    """

    values: Tensor
    axes: tuple[str, ...]
    axis_labels: dict[str, list[str]] = field(default_factory=dict)
    quantity: str = "value"

    def __post_init__(self) -> None:
        if self.values.ndim != len(self.axes):
            raise BadInput(f"values is {list(self.values.shape)}, but there are {len(self.axes)} axes: {self.axes}.")
        for axis, labels in self.axis_labels.items():
            size = self.values.shape[self.axes.index(axis)]
            if len(labels) != size:
                raise BadInput(f"There are {len(labels)} labels for the {size} entries of {axis!r}.")

    # Selecting

    def __getitem__(self, key: Any) -> Any:
        """``result["L5H1"]``, ``result["induction", "L5"]``, ``result[5, 1]``: a smaller result, or a number."""
        picked, keys = self, key if isinstance(key, tuple) else (key,)
        if any(each is ... for each in keys):
            at = next(i for i, each in enumerate(keys) if each is ...)
            keys = (*keys[:at], *[slice(None)] * (len(self.axes) - len(keys) + 1), *keys[at + 1 :])
        for number, each in enumerate(keys):
            place = self._place_of(each) if isinstance(each, str) else {self._axis(number): each}
            for axis, index in place.items():
                picked = picked._at(axis, index)
        return picked if picked.axes else picked.values.item()

    def _axis(self, number: int) -> str:
        if number >= len(self.axes):
            raise BadInput(f"There are {len(self.axes)} axes here ({', '.join(self.axes)}): one index each.")
        return self.axes[number]

    def _at(self, axis: str, index: Any) -> Result:
        if axis not in self.axes:
            raise BadInput(f"The axis {axis!r} is given twice.")
        number = self.axes.index(axis)
        values = self.values[(slice(None),) * number + (index,)]
        labels = dict(self.axis_labels)
        if values.ndim < self.values.ndim:
            labels.pop(axis, None)
            return self._with(values, self.axes[:number] + self.axes[number + 1 :], labels)
        if axis in labels:
            labels[axis] = [labels[axis][i] for i in torch.arange(len(labels[axis]))[index].tolist()]
        return self._with(values, self.axes, labels)

    def __len__(self) -> int:
        """Entries of the first axis."""
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        """The entries of the first axis: smaller results, or numbers."""
        return (self[i] for i in range(len(self)))

    def __contains__(self, label: object) -> bool:
        """Whether there is such a label, joined ones too; values are asked for in `values`."""
        return label in self._names()

    def _place_of(self, label: str) -> dict[str, int]:
        """Where a label is: on one axis, or on two whose labels it joins (``"L5H1"``)."""
        for axis, labels in self.axis_labels.items():
            if labels.count(label) > 1:
                places = [i for i, each in enumerate(labels) if each == label]
                raise BadInput(f"{label!r} is at {axis} {places}: select by number, such as result[..., {places[0]}].")
            if label in labels:
                return {axis: labels.index(label)}
        for first, second in zip(self.axes, self.axes[1:], strict=False):
            for i, start in enumerate(self.axis_labels.get(first, [])):
                rest = self.axis_labels.get(second, [])
                if label.startswith(start) and label[len(start) :] in rest:
                    return {first: i, second: rest.index(label[len(start) :])}
        raise unknown("label", label, self._names())

    def _names(self) -> list[str]:
        """Every label, joined ones too."""
        names = [label for labels in self.axis_labels.values() for label in labels]
        for first, second in zip(self.axes, self.axes[1:], strict=False):
            names += [a + b for a in self.axis_labels.get(first, []) for b in self.axis_labels.get(second, [])]
        return names

    # Taking on

    def labels_of(self, axis: str) -> list[str]:
        """What the entries of `axis` are called."""
        size = self.values.shape[self.axes.index(axis)]
        return self.axis_labels.get(axis, [str(i) for i in range(size)])

    def top(self, k: int = 5, by: str = "value") -> list[tuple[str, float]]:
        """Return the `k` largest values and where they are, largest first; what is not defined (NaN) is left out.

        With ``by="size"`` the sign does not count.
        """
        return [(self._described(place), value) for place, value in self.strongest(k, by)]

    def strongest(self, k: int, by: str = "value") -> list[tuple[int, float]]:
        """Return the same by number, counted through the flattened values."""
        if by not in ("value", "size"):
            raise unknown("order", by, ("value", "size"))
        values = self.values.detach().float().flatten().cpu()
        keys = (values.abs() if by == "size" else values).nan_to_num(nan=-torch.inf)
        order = keys.argsort(descending=True, stable=True)[:k].tolist()
        return [(place, values[place].item()) for place in order if not values[place].isnan()]

    def _described(self, flat: int) -> str:
        where = torch.unravel_index(torch.tensor(flat), self.values.shape)
        names = [self.labels_of(axis)[int(i)] for axis, i in zip(self.axes, where, strict=True)]
        return "".join(names) if self.axes in (("layer", "head"), ("layer", "neuron")) else " ".join(names)

    def to_dataframe(self) -> Any:
        """Return a tidy pandas table: a row for each value, a column for each axis, and one of the values."""
        pandas = library("pandas", "to_dataframe")
        index = pandas.MultiIndex.from_product([range(size) for size in self.values.shape], names=self.axes)
        table = pandas.DataFrame({self.quantity: self.values.detach().float().cpu().flatten().numpy()}, index=index)
        table = table.reset_index()
        for axis, labels in self.axis_labels.items():
            table[axis] = [labels[i] for i in table[axis]]
        return table

    def plot(self, title: str | None = None, texts: list[list[str]] | None = None) -> Figure:
        """Return a matplotlib figure: bars of one axis, a heat map of two, a row of heat maps of three.

        `texts`, row by row, are written into the cells of a heat map.
        """
        alone = "batch" in self.axes and self.values.shape[self.axes.index("batch")] == 1
        shown = self._at("batch", 0) if alone else self
        axes = [(axis, shown.axis_labels.get(axis)) for axis in shown.axes]
        return draw(shown.values.detach().float().cpu().numpy(), axes, self.quantity, title, texts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.values.detach().cpu()
        # numpy has no bfloat16.
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return np.array(array, dtype, copy=True) if copy else np.asarray(array, dtype)

    # Arithmetic, between results of one shape, with a tensor or array of that shape, or with a number

    __array_priority__ = 1000  # numpy leaves ``array - result`` to the result

    def _combined(self, other: Any, operation: Any) -> Result:
        if isinstance(other, Result):
            if other.axes != self.axes or other.values.shape != self.values.shape:
                raise BadInput(f"{self._shape()} and {other._shape()} do not go together.")
            other = other.values.to(self.values.device)
        elif isinstance(other, (Tensor, np.ndarray, np.number)):
            other = torch.as_tensor(other, device=self.values.device)
            if other.ndim and other.shape != self.values.shape:
                raise BadInput(f"{self._shape()} and a tensor {list(other.shape)} do not go together.")
        elif not isinstance(other, (int, float)):
            return NotImplemented
        return self._with(operation(self.values, other), self.axes, self.axis_labels)

    def _with(self, values: Tensor, axes: tuple[str, ...], axis_labels: dict[str, list[str]]) -> Result:
        """What is made of this result: of its kind as long as it has the axes of its kind."""
        kind = type(self) if axes == self.axes else Result
        return kind(values, axes, axis_labels, self.quantity)

    def __add__(self, other: Any) -> Result:
        return self._combined(other, torch.add)

    def __sub__(self, other: Any) -> Result:
        return self._combined(other, torch.sub)

    def __mul__(self, other: Any) -> Result:
        return self._combined(other, torch.mul)

    def __truediv__(self, other: Any) -> Result:
        return self._combined(other, torch.div)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Result:
        return self._combined(other, lambda values, other: other - values)

    def __rtruediv__(self, other: Any) -> Result:
        return self._combined(other, lambda values, other: other / values)

    def __neg__(self) -> Result:
        return self * -1

    def abs(self) -> Result:
        """The same without signs."""
        return self._with(self.values.abs(), self.axes, self.axis_labels)

    # For the eye

    def _shape(self) -> str:
        return "[" + ", ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.values.shape, strict=True)) + "]"

    def __repr__(self) -> str:
        top = self.top(_SHOWN)
        width = max((len(label) for label, _ in top), default=0)
        return "\n".join(
            [f"{type(self).__name__}: {self.quantity} {self._shape()}"]
            + [f"  {label:{width}}  {value:.4g}" for label, value in top]
        )
