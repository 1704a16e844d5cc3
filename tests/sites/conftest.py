from pod_world import routers, space
from site_world import backend, plane, world

__all__ = ["backend", "plane", "routers", "space", "world"]
