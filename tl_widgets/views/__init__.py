"""The Python side of every view."""

from tl_widgets.views.cache_view import CacheView
from tl_widgets.views.mimebundle import mimebundle

__all__ = ["CacheView", "mimebundle"]
