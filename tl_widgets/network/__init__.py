"""The transformer itself: residual stream in, residual stream out, a hook point on every activation."""

from tl_widgets.network.network import Network

__all__ = ["Network"]
