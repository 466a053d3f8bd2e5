"""Defaults that a call may override: BOS and the side of padding."""

from __future__ import annotations

from typing import Any, TypeVar

from tl_widgets.errors import BadInput, unknown

T = TypeVar("T")

_ALLOWED: dict[str, tuple] = {"prepend_bos": (None, True, False), "padding_side": (None, "left", "right")}


def override_or_use_default_value(default_flag: T, override: T | None = None) -> T:
    """`override`, unless it is None."""
    return default_flag if override is None else override


class LocallyOverridenDefaults:
    """A context in which a model has other defaults.

    Parameters
    ----------
    model
        A `HookedTransformer`.
    overrides
        ``prepend_bos`` and ``padding_side``; None keeps the model's own.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> with LocallyOverridenDefaults(model, prepend_bos=False):
    ...     model.cfg.default_prepend_bos
    False
    >>> model.cfg.default_prepend_bos
    True
    """

    def __init__(self, model: Any, **overrides: Any) -> None:
        for name, value in overrides.items():
            if name not in _ALLOWED:
                raise unknown("default", name, _ALLOWED)
            if value not in _ALLOWED[name]:
                raise BadInput(f"{name} is one of {', '.join(map(repr, _ALLOWED[name]))}, not {value!r}.")
        if overrides.get("padding_side") is not None and model.tokenizer is None:
            raise BadInput("padding_side is the tokenizer's, and this model has none.")
        self.model = model
        self.overrides = {name: value for name, value in overrides.items() if value is not None}
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        homes = {
            "prepend_bos": (self.model.cfg, "default_prepend_bos"),
            "padding_side": (self.model.tokenizer, "padding_side"),
        }
        for name, value in self.overrides.items():
            home, attribute = homes[name]
            self._before.append((home, attribute, getattr(home, attribute)))
            setattr(home, attribute, value)

    def __exit__(self, *exception: object) -> None:
        while self._before:
            setattr(*self._before.pop())
