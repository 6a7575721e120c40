"""Anthropic's Messages: answers, counts of tokens, and the models in its form.

Owns: how such a request becomes a chat job, and the job's entries a message or its events.
Does not own: running the job (:mod:`velesio_worker.gateway.live`), and what parts an answer has
(:mod:`velesio_worker.gateway.pieces`).
"""
