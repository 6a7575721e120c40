"""Fan-out: any number of viewers of any number of jobs in one process, over four connections to Redis.

Owns what has been read of the streams that somebody watches (tails), who watches them (viewers), and when they are
read. Knows nothing of HTTP but the form of server-sent events, and nothing of who may see which job.

Each watched job is read once, however many watch it. Reading needs no timer where few jobs are watched: one blocking
read of all of them returns with the first entry, and another waits for those that have been silent. Under load the
reader takes less than a quarter of the loop's time, so that batches grow by themselves. Nobody waits for a slow viewer:
a stream is read on once the fastest of its viewers has taken what is there, and who falls behind what is kept is told
where to resume.
"""

from velesio_worker.client.fanout.bounds import Bounds, Counters
from velesio_worker.client.fanout.hub import Hub, HubClosedError
from velesio_worker.client.fanout.viewers import EndReason, ViewEnd

__all__ = ["Bounds", "Counters", "EndReason", "Hub", "HubClosedError", "ViewEnd"]
