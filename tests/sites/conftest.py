from site_world import backend, plane, world

__all__ = ["backend", "plane", "world"]
