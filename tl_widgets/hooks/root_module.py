"""`HookedRootModule`: hooks by name, and caches, for any torch module that contains `HookPoint` children."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.errors import BadInput, BadType, unknown
from tl_widgets.hooks.point import Direction, Directions, HookFunction, HookPoint
from tl_widgets.hooks.recording import Recorder
from tl_widgets.math.slice import Slice, SliceInput

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
NamedHook = tuple[str | Callable[[str], bool], HookFunction]


class HookedRootModule(nn.Module):
    """A torch module whose `HookPoint` children can be hooked by name; call `setup()` at the end of ``__init__``.

    Examples
    --------
    >>> import torch
    >>> class Doubler(HookedRootModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hook_double = HookPoint()
    ...         self.setup()
    ...     def forward(self, x):
    ...         return self.hook_double(2 * x)
    >>> model = Doubler()
    >>> model.run_with_hooks(torch.ones(1), fwd_hooks=[("hook_double", lambda x, hook: x + 1)])
    tensor([3.])
    >>> output, cache = model.run_with_cache(torch.ones(1))
    >>> cache
    {'hook_double': tensor([2.])}
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.is_caching = False
        self.context_level = 0
        self.hook_dict: dict[str, HookPoint] = {}
        self.mod_dict: dict[str, nn.Module] = {}

    def setup(self) -> None:
        """Name every `HookPoint` and list it in `hook_dict`; call again after replacing modules."""
        self.mod_dict = {}
        self.hook_dict = {}
        for name, module in self.named_modules():
            if name == "":
                continue
            module.name = name
            self.mod_dict[name] = module
            if isinstance(module, HookPoint):
                self.hook_dict[name] = module

    def hook_points(self) -> Iterable[HookPoint]:
        """All hook points, in the order of the model."""
        return self.hook_dict.values()

    def computed_points(self) -> list[str]:
        """Names of the points that the model computes without being asked: all but optional ones."""
        return [name for name, point in self.hook_dict.items() if not self._is_switched_off(point)]

    # Attaching and removing

    def _names_called(self, name: str | Callable[[str], bool]) -> list[str]:
        """The points that a name or predicate selects, by their keys in `hook_dict`.

        A predicate leaves optional points out unless it selects nothing else: ``lambda name: True`` means what the
        model computes anyway, ``lambda name: name.endswith("hook_result")`` can only mean the optional ones.
        """
        if callable(name):
            names = [key for key in self.hook_dict if name(key)]
            return [key for key in names if not self._is_switched_off(self.hook_dict[key])] or names
        if name not in self.hook_dict:
            raise unknown("hook point", name, self.hook_dict)
        return [name]

    def _is_switched_off(self, point: HookPoint) -> bool:
        """Whether the model will not compute this point unless somebody hooks it; models with optional points say."""
        return False

    def check_hooks_to_add(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> None:
        """Raise if `hook` cannot be attached there; a subclass may refuse more."""

    def check_and_add_hook(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Attach a hook to a point that is already in hand."""
        self.check_hooks_to_add(hook_point, hook_point_name, hook, dir, is_permanent, prepend)
        hook_point.add_hook(hook, dir, is_permanent, level, prepend)

    def add_hook(
        self,
        name: str | Callable[[str], bool],
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Attach `hook` to the point called `name`, or to all whose name the predicate accepts, until `reset_hooks`.

        Raises
        ------
        UnknownName
            If no hook point has that name; the nearest names are suggested.
        """
        names = self._names_called(name)
        if not names:
            warnings.warn("The predicate given to add_hook accepts no hook point: nothing is hooked.", stacklevel=2)
        for each in names:
            self.check_and_add_hook(self.hook_dict[each], each, hook, dir, is_permanent, level, prepend)

    def add_perma_hook(self, name: str | Callable[[str], bool], hook: HookFunction, dir: Direction = "fwd") -> None:
        """Attach a hook that stays until ``reset_hooks(including_permanent=True)``."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def remove_all_hook_fns(
        self,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks everywhere: all but permanent ones, or only those of one context `level`."""
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent, level)

    def clear_contexts(self) -> None:
        """Empty every point's `HookPoint.ctx`."""
        for point in self.hook_points():
            point.clear_context()

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove all hooks but permanent ones, and empty the points' contexts."""
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(direction, including_permanent, level)
        self.is_caching = False

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[NamedHook] = (),
        bwd_hooks: Sequence[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[HookedRootModule]:
        """Attach hooks for the length of a ``with`` block; levels nest, and leave nothing behind when one raises.

        Parameters
        ----------
        fwd_hooks, bwd_hooks
            Pairs ``(name or predicate, function)``.
        reset_hooks_end
            Whether the hooks go at the end of the block.
        clear_contexts
            Whether the points' `HookPoint.ctx` are emptied at the end.
        """
        self.context_level += 1
        level = self.context_level
        try:
            for direction, named_hooks in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
                for name, hook in _pairs(named_hooks, direction):
                    self.add_hook(name, hook, dir=direction, level=level)  # type: ignore[arg-type]
            yield self
        except BaseException:
            self.remove_all_hook_fns(level=level)
            raise
        finally:
            if reset_hooks_end:
                self.reset_hooks(clear_contexts, level=level)
            self.context_level -= 1

    @contextmanager
    def no_hooks(self) -> Iterator[HookedRootModule]:
        """Set all hooks aside for the length of a ``with`` block; those attached in it go with it."""
        aside = [(point, point.fwd_hooks, point.bwd_hooks) for point in self.hook_points()]
        for point, _, _ in aside:
            point.fwd_hooks, point.bwd_hooks = [], []
        try:
            yield self
        finally:
            for point, fwd_hooks, bwd_hooks in aside:
                point.fwd_hooks, point.bwd_hooks = fwd_hooks, bwd_hooks

    def remove_hook(self, name: str | Callable[[str], bool], direction: Directions = "both") -> None:
        """Remove all but permanent hooks from the point called `name`, or from all that the predicate accepts."""
        names = [key for key in self.hook_dict if name(key)] if callable(name) else self._names_called(name)
        for each in names:
            self.hook_dict[each].remove_hooks(direction)

    # Running

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Sequence[NamedHook] = (),
        bwd_hooks: Sequence[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Run the model once with hooks attached; see `hooks` for the arguments.

        With `bwd_hooks` and ``reset_hooks_end=True`` a warning says that the hooks are gone before ``backward()``.
        """
        if bwd_hooks and reset_hooks_end:
            warnings.warn(
                "bwd_hooks are removed when run_with_hooks returns, before any .backward(): use "
                "`with model.hooks(bwd_hooks=...)` around both, or reset_hooks_end=False.",
                stacklevel=2,
            )
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*model_args, **model_kwargs)

    def run_with_cache(
        self,
        *model_args: Any,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: SliceInput | Slice = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once and keep its activations.

        Parameters
        ----------
        names_filter
            A hook point's name, a list of names, or a predicate of the name; ``None`` keeps every activation.
        device
            Where to keep them; ``None`` leaves them where they are.
        remove_batch_dim
            Drop the batch dimension (of one).
        incl_bwd
            Run ``.backward()`` on the (scalar) output and also keep each gradient as ``<name>_grad``.
        pos_slice
            Which positions to keep, see `tl_widgets.math.Slice`.

        Returns
        -------
        tuple
            The model's output, and a dict from full names to detached activations: what they were at that moment,
            whatever is edited in place later.
        """
        keeps_to_itself = self.keeps_to_itself()
        recorder = Recorder({}, device, remove_batch_dim, Slice.unwrap(pos_slice), private=not keeps_to_itself)
        recorder.stay_apart_from([*model_args, *model_kwargs.values()])
        fwd_hooks, bwd_hooks = self._recording_hooks(recorder, names_filter, incl_bwd)
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                if not isinstance(output, Tensor) or output.numel() != 1:
                    raise BadInput(
                        "incl_bwd=True runs .backward() on the output, which must be one number: return_type='loss'."
                    )
                output.backward()
        recorder.part_from(output)
        return output, recorder.cache

    def keeps_to_itself(self) -> bool:
        """Whether this model, as it is hooked now, never edits in place what has passed a hook point.

        Then a cache may hold the very tensors, without copies. Nothing is known of any module: a subclass may know.
        """
        return False

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: SliceInput | Slice = None,
    ) -> tuple[dict[str, Tensor], list[NamedHook], list[NamedHook]]:
        """Hooks that record activations, to pass to `run_with_hooks` or `hooks`: ``(cache, fwd_hooks, bwd_hooks)``."""
        recorder = Recorder({} if cache is None else cache, device, remove_batch_dim, Slice.unwrap(pos_slice))
        return recorder.cache, *self._recording_hooks(recorder, names_filter, incl_bwd)

    def _recording_hooks(
        self, recorder: Recorder, names_filter: NamesFilter, incl_bwd: bool
    ) -> tuple[list[NamedHook], list[NamedHook]]:
        names = self._names_to_cache(names_filter)
        return (
            [(name, recorder.activation) for name in names],
            [(name, recorder.gradient) for name in names] if incl_bwd else [],
        )

    def _names_to_cache(self, names_filter: NamesFilter) -> list[str]:
        if names_filter is None:
            return self.computed_points()
        if isinstance(names_filter, str) or callable(names_filter):
            return self._names_called(names_filter)
        wanted = {key for name in names_filter for key in self._names_called(name)}
        return [key for key in self.hook_dict if key in wanted]

    def add_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Attach recording hooks that stay until `reset_hooks`; returns the dict that they fill."""
        cache, fwd_hooks, bwd_hooks = self.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache)
        for name, hook in fwd_hooks:
            self.add_hook(name, hook, dir="fwd")
        for name, hook in bwd_hooks:
            self.add_hook(name, hook, dir="bwd")
        self.is_caching = True
        return cache

    def cache_all(
        self,
        cache: dict[str, Tensor],
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Record every activation of later runs into `cache`, until `reset_hooks`."""
        self.add_caching_hooks(None, incl_bwd, device, remove_batch_dim, cache)

    def cache_some(
        self,
        cache: dict[str, Tensor],
        names: NamesFilter,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Record the named activations of later runs into `cache`, until `reset_hooks`."""
        self.add_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache)


def _pairs(named_hooks: Sequence[NamedHook], direction: str) -> Sequence[NamedHook]:
    """Return `named_hooks`, or raise if they are not a list of pairs."""
    is_list = isinstance(named_hooks, (list, tuple))
    if not is_list or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in named_hooks):
        raise BadType(f"{direction}_hooks is a list of pairs (name or predicate, function), not {named_hooks!r}.")
    return named_hooks
