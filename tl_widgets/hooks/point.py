"""`HookPoint`: an identity that marks one activation, and the hooks that read and replace it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from tl_widgets.errors import BadInput, BadType

Direction = Literal["fwd", "bwd"]
Directions = Literal["fwd", "bwd", "both"]
HookFunction = Callable[..., Any]


@dataclass(eq=False)
class Hook:
    """One function attached to one `HookPoint`."""

    fn: HookFunction
    is_permanent: bool = False
    level: int | None = None  # of the `hooks()` context that attached it; None: attached by hand


class HookPoint(nn.Module):
    """An identity that marks one activation, so that functions can read and replace it.

    Attributes
    ----------
    name
        The full path in the model, set by `HookedRootModule.setup`.
    ctx
        A dict for the hooks' own use; it outlives the run (see `clear_context`).
    fwd_hooks, bwd_hooks
        What is attached, in the order in which it runs.

    Examples
    --------
    >>> import torch
    >>> point = HookPoint()
    >>> point.add_hook(lambda x, hook: 2 * x)
    >>> point(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None
        self.ctx: dict = {}
        self.fwd_hooks: list[Hook] = []
        self.bwd_hooks: list[Hook] = []
        self.hook_conversion: Any = None  # see `enable_reshape`

    def forward(self, x: Tensor) -> Tensor:
        """Run the hooks, if there are any, on the activation `x`."""
        for hook in tuple(self.fwd_hooks):  # a copy: hooks may add or remove hooks
            result = hook.fn(self._as_hooks_see(x), hook=self)
            if result is not None:
                if not isinstance(result, Tensor):
                    raise BadType(
                        f"The hook {hook.fn!r} at {self.name} returned {type(result).__name__}: a hook returns a "
                        "tensor that replaces the activation, or None."
                    )
                x = self._as_the_model_does(result)
        if self.bwd_hooks and x.requires_grad:
            # Of what goes on from here, after the forward hooks; and a view of its own, so that points which share
            # one tensor (resid_post, the next resid_pre) stay apart in the backward pass.
            x = x.view_as(x)
            x.register_hook(self._run_backward)
        return x

    def _run_backward(self, grad: Tensor) -> Tensor:
        for hook in tuple(self.bwd_hooks):
            result = hook.fn(self._as_hooks_see(grad), hook=self)
            if isinstance(result, tuple):  # the field's backward hooks may return torch's (grad,)
                result = result[0]
            if result is not None:
                grad = self._as_the_model_does(result)
        return grad

    def enable_reshape(self, hook_conversion: Any = None) -> None:
        """Let hooks see the activation in another form; None shows it as it is again.

        Parameters
        ----------
        hook_conversion
            With ``convert(activation)``, what hooks see, and ``revert(returned)``, what becomes of what they return.

        Examples
        --------
        >>> import torch
        >>> class Flat:
        ...     def convert(self, x):
        ...         return x.flatten(-2)
        ...     def revert(self, x):
        ...         return x.unflatten(-1, (2, 3))
        >>> point = HookPoint()
        >>> point.enable_reshape(Flat())
        >>> point.add_hook(lambda x, hook: print(x.shape))
        >>> point(torch.ones(2, 3)).shape
        torch.Size([6])
        torch.Size([2, 3])
        """
        self.hook_conversion = hook_conversion

    def _as_hooks_see(self, x: Tensor) -> Tensor:
        return x if self.hook_conversion is None else self.hook_conversion.convert(x)

    def _as_the_model_does(self, x: Tensor) -> Tensor:
        return x if self.hook_conversion is None else self.hook_conversion.revert(x)

    def _hooks(self, dir: Direction) -> list[Hook]:
        if dir not in ("fwd", "bwd"):
            raise BadInput(f"A hook's direction is 'fwd' or 'bwd', not {dir!r}.")
        return self.fwd_hooks if dir == "fwd" else self.bwd_hooks

    def add_hook(
        self,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: list[str] | None = None,
    ) -> None:
        """Attach ``hook(activation, hook=self)``; with `prepend` it runs before those already there.

        Parameters
        ----------
        hook
            Called with the activation (``dir="fwd"``) or its gradient (``dir="bwd"``).
        is_permanent
            Stays until removed with ``including_permanent=True``.
        level
            The depth of the `HookedRootModule.hooks` context that owns the hook.
        alias_names
            Names under which the hook is called instead of the point's own, one call each.
        """
        if alias_names:
            hook = _under_aliases(hook, self, alias_names)
        attached = self._hooks(dir)
        attached.insert(0 if prepend else len(attached), Hook(hook, is_permanent, level))

    def add_perma_hook(self, hook: HookFunction, dir: Direction = "fwd") -> None:
        """Attach a hook that `HookedRootModule.reset_hooks` leaves alone."""
        self.add_hook(hook, dir=dir, is_permanent=True)

    def remove_hooks(
        self,
        dir: Directions = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks: all but permanent ones, or only those of one context `level`."""
        for direction in _directions(dir):
            attached = self._hooks(direction)
            attached[:] = [
                hook
                for hook in attached
                if (hook.is_permanent and not including_permanent) or (level is not None and hook.level != level)
            ]

    def has_hooks(
        self,
        dir: Directions = "both",
        including_permanent: bool = True,
        level: int | None = None,
    ) -> bool:
        """Whether any hook is attached that matches."""
        return any(
            (including_permanent or not hook.is_permanent) and (level is None or hook.level == level)
            for direction in _directions(dir)
            for hook in self._hooks(direction)
        )

    def clear_context(self) -> None:
        """Empty `ctx`."""
        self.ctx = {}

    def layer(self) -> int:
        """Return the layer number in the point's name (``blocks.5.attn.hook_q`` -> 5)."""
        parts = (self.name or "").split(".")
        if len(parts) < 2 or not parts[1].isdigit():
            raise BadInput(f"The hook point {self.name!r} is not in a layer: only 'blocks.<layer>...' names have one.")
        return int(parts[1])


def _directions(dir: str) -> tuple[Direction, ...]:
    if dir == "both":
        return ("fwd", "bwd")
    return (dir,)  # type: ignore[return-value]  # HookPoint._hooks refuses anything else


@dataclass
class _Alias:
    """A hook point under another name."""

    point: HookPoint
    name: str

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.point, attribute)


def _under_aliases(fn: HookFunction, point: HookPoint, names: list[str]) -> HookFunction:
    def call_each(x: Tensor, hook: HookPoint) -> Tensor | None:
        result = None
        for name in names:
            returned = fn(x if result is None else result, hook=_Alias(point, name))
            result = returned if returned is not None else result
        return result

    return call_each


def is_watched(point: nn.Module) -> bool:
    """Whether anybody sees what passes `point`: a hook of ours, a hook of torch's, or another module in its place.

    Fast paths ask this before they leave an activation out.
    """
    return type(point) is not HookPoint or bool(point.fwd_hooks) or bool(point.bwd_hooks) or is_altered(point)


def may_edit(point: nn.Module) -> bool:
    """Whether anybody at `point` may change the activation: a hook that does not only record it."""
    if type(point) is not HookPoint or is_altered(point):
        return True
    owners = (getattr(hook.fn, "__self__", None) for hook in point.fwd_hooks)
    return not all(getattr(owner, "only_records", False) for owner in owners)


def is_altered(module: nn.Module) -> bool:
    """Whether anybody has hooked `module` through torch itself, or put a function in the place of its `forward`."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
