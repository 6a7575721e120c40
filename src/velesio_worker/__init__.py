"""A GPU inference worker: jobs from Redis, tokens to Redis Streams as they are made.

Public are ``velesio_worker.client``, which programs import that submit jobs and follow them, and ``__version__``. All
else is the worker's own and may change in any version.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
