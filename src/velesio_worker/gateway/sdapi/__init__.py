"""The Stable Diffusion WebUI's own routes, ``/sdapi/v1``, for clients that speak them.

Owns the WebUI's forms of requests, answers and errors, and which image jobs of a caller run through this process.
Decides nothing about images: what is wrong with a parameter the worker says. Keeps no settings between requests.
"""
