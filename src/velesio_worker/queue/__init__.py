"""The list side of Redis: from ``LPUSH`` to a claimed job, and back."""
