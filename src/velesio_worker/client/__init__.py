"""What a gateway imports: submit jobs, follow their streams, fetch their results, cancel them; see who works.

Owns the reading end of streams: :class:`Client` for asyncio, :class:`SyncClient` for the same without, and ``fanout``
for many viewers in one process. Knows nothing of engines, and brings no worker with it.
"""

from velesio_worker.client.client import Client, JobOptions, JobRestartedError
from velesio_worker.client.details import Details, GpuInfo, RunningJob
from velesio_worker.client.fleet import EngineInfo, FleetView, QueueDepths, WorkerInfo
from velesio_worker.client.stalled import JobStalledError
from velesio_worker.client.sync import SyncClient
from velesio_worker.queue.survey import Waiting
from velesio_worker.wire.errors import BadJobError, JobError, VelesioError
from velesio_worker.wire.events import StreamEvent

__all__ = [
    "BadJobError",
    "Client",
    "Details",
    "EngineInfo",
    "FleetView",
    "GpuInfo",
    "JobError",
    "JobOptions",
    "JobRestartedError",
    "JobStalledError",
    "QueueDepths",
    "RunningJob",
    "StreamEvent",
    "SyncClient",
    "VelesioError",
    "Waiting",
    "WorkerInfo",
]
