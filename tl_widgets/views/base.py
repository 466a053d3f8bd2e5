"""What every view shares: its bundle, the envelope of its messages, and how long it keeps its object alive."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets

from tl_widgets.errors import BadInput, CannotLoad, UnknownName, unknown

STATIC = Path(__file__).parent / "static"


class NoSuchTrait(UnknownName, AttributeError):
    """A name that a view has no trait for."""

    __str__ = ValueError.__str__


Reply = tuple[dict[str, Any], list[bytes]]
Handler = Callable[[Any, dict[str, Any]], Reply]


@lru_cache
def bundle(name: str) -> str:
    """Return the JavaScript of a view."""
    path = STATIC / f"{name}.js"
    if not path.is_file():
        raise CannotLoad(
            f"The front end {path.name} has not been built. In a clone: `make setup` (or `npm ci && npm run build` in "
            "js/); an installed wheel brings it along."
        )
    return path.read_text(encoding="utf-8")


class View(anywidget.AnyWidget):
    """A widget over one Python object.

    Subclasses name their `bundle_name` and list in `handlers` what the page may ask for. A request ``{id, kind, ...}``
    is always answered: ``{id, ok: true, ...}`` with buffers, or ``{id, ok: false, error}``.

    The object is held weakly, because ipywidgets keeps every widget for ever; but from when the view is shown until
    its last page lets go the view keeps the object alive, also when its name is bound to something else.
    """

    bundle_name: str
    handlers: dict[str, Handler] = {}

    _esm = traitlets.Unicode().tag(sync=True)

    @traitlets.default("_esm")
    def _default_esm(self) -> str:
        return bundle(self.bundle_name)

    def __init__(self, subject: Any, **traits: Any) -> None:
        self._subject = weakref.ref(subject)
        # Not at the interpreter's end, when there is nobody left to tell.
        weakref.finalize(subject, self._when_gone).atexit = False
        self._held: Any = None
        self._pages: set[str] = set()
        # Requests may come on another thread while a cell runs.
        self._lock = threading.RLock()
        super().__init__(**traits)
        self.on_msg(self._answer)

    @property
    def subject(self) -> Any:
        """The object that this view shows, or an error if its memory is gone."""
        subject = self._subject()
        if subject is None:
            raise BadInput("What this view showed is no longer in memory: run the cell again.")
        return subject

    def hold(self) -> None:
        """Keep the object alive from now on: the view is being shown."""
        self._held = self._subject()

    def _when_gone(self) -> None:
        if not self._pages:
            self.close()

    def __setattr__(self, name: str, value: Any) -> None:
        # A misspelt `view.haed = 3` would otherwise do nothing, silently.
        if not name.startswith("_") and not hasattr(type(self), name):
            raise NoSuchTrait(unknown("trait", name, self.class_trait_names(settable=True)).args[0])
        super().__setattr__(name, value)

    # Messages

    def _answer(self, _: Any, message: Any, buffers: Any = None) -> None:
        number = message.get("id") if isinstance(message, dict) else None
        try:
            # Grad mode is a thread's own, and a reply never needs gradients.
            with self._lock, torch.no_grad():
                reply, buffers = self._handle(message)
        except Exception as error:  # the page must hear of whatever went wrong, or it waits for ever
            expected = isinstance(error, (ValueError, TypeError, KeyError))
            text = str(error) if expected else "".join(traceback.format_exception_only(error)).strip()
            self.send({"id": number, "ok": False, "error": text})
            return
        self.send({"id": number, "ok": True, **reply}, buffers)

    def _handle(self, message: Any) -> Reply:
        kind = message.get("kind") if isinstance(message, dict) else None
        handlers = {"open": View._page_opened, "close": View._page_closed, **self.handlers}
        if kind not in handlers:
            raise unknown("request", kind, handlers)
        return handlers[kind](self, message)

    def _page_opened(self, message: dict[str, Any]) -> Reply:
        self._pages.add(str(message.get("view")))
        self.hold()
        return {}, []

    def _page_closed(self, message: dict[str, Any]) -> Reply:
        self._pages.discard(str(message.get("view")))
        if not self._pages:
            self._held = None
        return {}, []


def float32_bytes(tensor: torch.Tensor) -> bytes:
    """Little-endian float32, row by row."""
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()


def whole_number(message: dict[str, Any], key: str, low: int, high: int) -> int:
    """``message[key]`` as an int from `low` to `high` - 1; a page's messages are not to be trusted."""
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value < high:
        raise BadInput(f"{key} is {low} to {high - 1}, not {value!r}.")
    return int(value)
