"""The routes of OpenAI's API, without its stored objects.

Owns: bodies of requests and what jobs they become; results and events as whole answers and as chunks.
Does not own: who may call and how jobs run, which are the gateway's; the Responses API, which has a room of its own.
"""
