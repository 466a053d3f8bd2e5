"""What an object gives to the notebook that displays it: a view, a picture where no script runs, and text."""

from __future__ import annotations

import base64
from typing import Any

from tl_widgets.cache import ActivationCache
from tl_widgets.display import options
from tl_widgets.errors import BadInput, CannotLoad
from tl_widgets.views.picture import SCALE, picture


def mimebundle(
    cache: ActivationCache, include: Any = None, exclude: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return data and metadata by MIME type; only text where there is nothing to see, or text was asked for."""
    data: dict[str, Any] = {"text/plain": repr(cache)}
    if options.display == "text":
        return data, {}
    try:
        view = cache.view
    except (BadInput, CannotLoad) as why_not:  # nothing to show, or no front end to show it
        data["text/plain"] += f"\n  {why_not}"
        return data, {}
    view.hold()
    png, (width, height) = picture(cache, view.layer, view.head, view.example)
    # anywidget's own bundle: Colab finds in its metadata how to show a widget.
    widget, metadata = view._repr_mimebundle_() or ({}, {})
    picture_of_it = {"image/png": base64.b64encode(png).decode()}
    size = {"image/png": {"width": width // SCALE, "height": height // SCALE}}
    return {**widget, **picture_of_it, **data}, {**metadata, **size}
