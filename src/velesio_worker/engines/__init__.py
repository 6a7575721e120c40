"""Engines: what runs jobs. Nothing in here knows of Redis."""
