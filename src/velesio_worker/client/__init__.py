"""What a gateway imports: submit jobs, follow their streams, fetch their results, cancel them."""

from velesio_worker.client.client import Client, JobOptions, JobRestartedError
from velesio_worker.wire.errors import BadJobError, JobError, VelesioError
from velesio_worker.wire.events import StreamEvent

__all__ = ["BadJobError", "Client", "JobError", "JobOptions", "JobRestartedError", "StreamEvent", "VelesioError"]
