"""A Virtual Application Network: services across clusters, hosts and clouds, as if they were local."""

import importlib

__version__ = "0.1.0"
__all__ = ["Serving", "Stream", "StreamBroken", "Van", "__version__", "open"]


def __getattr__(name: str) -> object:
    """The embedding API comes with a router, so that it is loaded when it is first used; ``__init__.pyi`` has its types."""
    if name in ("Serving", "Stream", "StreamBroken", "Van", "open"):
        return getattr(importlib.import_module("vanrouter.embed"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
