from vanrouter.embed import Serving as Serving
from vanrouter.embed import Stream as Stream
from vanrouter.embed import StreamBroken as StreamBroken
from vanrouter.embed import Van as Van
from vanrouter.embed import open as open

__version__: str
