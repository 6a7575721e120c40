"""A GPU inference worker: jobs from Redis, tokens to Redis Streams as they are made."""

__version__ = "0.1.0"
