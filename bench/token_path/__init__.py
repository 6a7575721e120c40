"""The token path measured from outside: whole processes, a real Redis, and an engine's double in a process of its own.

``make bench ARGS="relay"`` and its neighbours; ``make bench ARGS="figures"`` measures all of it and writes the page.
"""
