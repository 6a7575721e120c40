"""What a gateway imports: submit jobs, follow their streams, fetch their results, cancel them; see who works."""

from velesio_worker.client.client import Client, JobOptions, JobRestartedError
from velesio_worker.client.fleet import EngineInfo, QueueDepths, WorkerInfo
from velesio_worker.queue.survey import Waiting
from velesio_worker.wire.errors import BadJobError, JobError, VelesioError
from velesio_worker.wire.events import StreamEvent

__all__ = [
    "BadJobError",
    "Client",
    "EngineInfo",
    "JobError",
    "JobOptions",
    "JobRestartedError",
    "QueueDepths",
    "StreamEvent",
    "VelesioError",
    "Waiting",
    "WorkerInfo",
]
