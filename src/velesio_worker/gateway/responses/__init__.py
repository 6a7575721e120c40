"""OpenAI's Responses, without a memory: each request carries its whole conversation.

Owns: how such a request becomes a chat job, and the job's entries an answer or its events.
Does not own: running the job (:mod:`velesio_worker.gateway.live`), and what parts an answer has
(:mod:`velesio_worker.gateway.pieces`).
"""
