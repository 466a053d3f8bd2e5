"""Errors that teach: what was given, what is allowed, and the nearest valid name.

Each class is also the type that the field's code has caught there for years (``AssertionError``, ``KeyError``), so
that existing ``except`` clauses keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_NAMES_SHOWN = 12


class BadInput(ValueError, AssertionError):
    """A value that this call cannot use."""


class BadType(TypeError, AssertionError):
    """A value of a type that this call cannot use."""


class StaleCache(BadInput, RuntimeError):
    """A cache that can no longer recompute: what it would run again has changed."""


class IndexOutside(BadInput, IndexError):
    """An index outside what it picks from."""


class NotInThisModel(AttributeError, ValueError, AssertionError):
    """A weight that models of this kind do not have."""


class UnknownName(KeyError, ValueError, AssertionError):
    """A name that nothing here answers to."""

    # KeyError shows the repr of its argument, which would put the whole message in quotes.
    __str__ = ValueError.__str__


class CannotLoad(ValueError, OSError):
    """Weights, a config or a tokenizer that could not be found or read."""


def nearest(given: str, allowed: Iterable[str], most: int = 2) -> list[str]:
    """The names in `allowed` that `given` was probably meant to be, best first.

    Examples
    --------
    >>> nearest("blocks.0.attn.hook_patern", ["blocks.0.attn.hook_pattern", "hook_embed"])
    ['blocks.0.attn.hook_pattern']
    """
    by_lower = {name.lower(): name for name in allowed}
    return [by_lower[match] for match in difflib.get_close_matches(given.lower(), by_lower, n=most, cutoff=0.5)]


def unknown(kind: str, given: object, allowed: Iterable[str], hint: str = "") -> UnknownName:
    """An `UnknownName` that says what was given, the nearest valid names, or else what is allowed."""
    allowed = list(allowed)
    close = nearest(str(given), allowed)
    if close:
        advice = "Did you mean " + " or ".join(repr(name) for name in close) + "?"
    else:
        shown = ", ".join(repr(name) for name in allowed[:_MOST_NAMES_SHOWN])
        more = len(allowed) - _MOST_NAMES_SHOWN
        advice = f"There is {shown}" + (f" and {more} more." if more > 0 else ".") if allowed else "There is none here."
    return UnknownName(" ".join(part for part in (f"Unknown {kind} {given!r}.", advice, hint) if part))
