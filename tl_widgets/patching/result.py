"""`PatchingResult`: what a sweep found, between the corrupted run's value and the clean run's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.results import Result


@dataclass(frozen=True)
class Baselines:
    """The metric of the two runs themselves, for each pair: ``[example]``."""

    clean: Tensor
    corrupted: Tensor

    @property
    def difference(self) -> float:
        """Mean metric of the clean runs less that of the corrupted ones.

        Raises
        ------
        BadInput
            If there is none to speak of: nothing can be measured between two values that coincide.
        """
        clean, corrupted = self.clean.double().mean().item(), self.corrupted.double().mean().item()
        if abs(clean - corrupted) <= 1e-6 * max(1.0, abs(clean), abs(corrupted)):
            raise BadInput(
                f"The metric is {clean:.6g} of the clean run and {corrupted:.6g} of the corrupted one: there is "
                "nothing between them to normalise by. normalised=False gives the metric itself; another metric or "
                "other prompts may tell the two apart."
            )
        return clean - corrupted


@dataclass(frozen=True)
class Interval:
    """A mean over pairs, and how sure it is."""

    mean: Result
    standard_error: Result
    low: Result
    high: Result


@dataclass(frozen=True, eq=False, repr=False, init=False)
class PatchingResult(Result):
    """The metric after each patch: raw, or 0 as in the corrupted run and 1 as in the clean one.

    Parameters
    ----------
    per_example
        The metric itself, ``[*places, example]``; NaN where the sweep was interrupted before.
    axes, axis_labels
        Of the places.
    baselines
        Of the pairs.
    patched
        What was patched, in words.
    n_missing
        How many places an interrupted sweep did not reach.
    normalised
        Whether `values` are ``(patched - corrupted) / (clean - corrupted)``, means over the pairs.

    Attributes
    ----------
    values
        ``[*places]``.
    """

    per_example: Tensor = None  # type: ignore[assignment]  # set in __init__
    baselines: Baselines = None  # type: ignore[assignment]
    patched: str = ""
    n_missing: int = 0
    normalised: bool = True

    def __init__(
        self,
        per_example: Tensor,
        axes: tuple[str, ...],
        axis_labels: dict[str, list[str]],
        baselines: Baselines,
        patched: str,
        n_missing: int = 0,
        normalised: bool = True,
        quantity: str = "metric",
    ) -> None:
        values = per_example.mean(-1)
        if normalised:
            values = (values - baselines.corrupted.to(values).mean()) / baselines.difference
        quantity = f"{quantity}, 0 = corrupted, 1 = clean" if normalised else quantity
        super().__init__(values, axes, axis_labels, quantity)
        for name, value in (
            ("per_example", per_example),
            ("baselines", baselines),
            ("patched", patched),
            ("n_missing", n_missing),
            ("normalised", normalised),
        ):
            object.__setattr__(self, name, value)

    def where(self, k: int = 5, by: str = "value") -> list[tuple[str, dict[str, int]]]:
        """Return the `k` strongest places in the form that `PatchingPair.patch_many` takes."""
        order = [flat for flat, _ in self.strongest(k, by)]
        indices = [torch.unravel_index(torch.tensor(flat), self.values.shape) for flat in order]
        found = [dict(zip(self.axes, map(int, index), strict=True)) for index in indices]
        kinds = self.axis_labels.get("kind")
        if kinds is None:
            return [(self.patched.split()[0], place) for place in found]
        return [(kinds[place.pop("kind")], place) for place in found]

    def raw(self) -> PatchingResult:
        """The same as the metric itself."""
        return self._again(normalised=False)

    def normal(self) -> PatchingResult:
        """The same between 0 (as in the corrupted run) and 1 (as in the clean one)."""
        return self._again(normalised=True)

    def _again(self, normalised: bool) -> PatchingResult:
        quantity = self.quantity.removesuffix(", 0 = corrupted, 1 = clean")
        return PatchingResult(
            self.per_example,
            self.axes,
            self.axis_labels,
            self.baselines,
            self.patched,
            self.n_missing,
            normalised,
            quantity,
        )

    def interval(self, level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> Interval:
        """How sure the mean over pairs is: standard error, and a bootstrap interval (Efron 1979).

        Parameters
        ----------
        level
            Of the interval between the percentiles of resampled means.
        n_resamples, seed
            How often the pairs are drawn anew, and from which random numbers.

        Raises
        ------
        BadInput
            For one pair alone, which says nothing of others.
        """
        n = self.per_example.shape[-1]
        if n < 2:
            raise BadInput("One pair alone has no spread: give PatchingPair lists of prompts.")
        if not 0 < level < 1:
            raise BadInput(f"level is between 0 and 1, not {level}.")
        values = self.per_example.double()
        if self.normalised:
            values = (values - self.baselines.corrupted.to(values)) / self.baselines.difference
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(n, (n_resamples, n), generator=generator)
        weights = torch.zeros(n_resamples, n, dtype=values.dtype).scatter_add_(
            1, draws, torch.ones(draws.shape, dtype=values.dtype)
        )
        tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
        # A few places at a time: there may be many thousands, and each has its own resampled means.
        parts = [
            torch.quantile(some @ (weights / n).T, tail, dim=-1) for some in values.cpu().flatten(0, -2).split(1000)
        ]
        low, high = (bound.reshape(self.values.shape) for bound in torch.cat(parts, dim=1))
        error = values.std(-1) / n**0.5
        each = (values.mean(-1), error, low, high)
        return Interval(*(self._with(one.float(), self.axes, self.axis_labels) for one in each))

    def _with(self, values: Tensor, axes: tuple[str, ...], axis_labels: dict[str, list[str]]) -> Result:
        # Differences and parts are no sweeps: they have no baselines of their own.
        return Result(values, axes, axis_labels, self.quantity)

    def __repr__(self) -> str:
        head = (
            f"{self.patched}; clean {self.baselines.clean.mean().item():.4g}, "
            f"corrupted {self.baselines.corrupted.mean().item():.4g}"
        )
        missing = f"\n  ({self.n_missing} places are missing: the sweep was interrupted)" if self.n_missing else ""
        return f"{super().__repr__()}\n  {head}{missing}"
