"""HTTP for those who do not speak Redis.

Owns: routes and their dialects (OpenAI, Anthropic, the WebUI's, llama-server's, its own), who may call, how much.
Does not own: jobs and streams, which are the client's (:mod:`velesio_worker.client`);
engines, of which it knows nothing.
Needs the extra ``gateway``; nothing else of the package does.
"""
