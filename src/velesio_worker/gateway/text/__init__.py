"""llama-server's thin text routes, for clients that speak to one directly.

Owns the forms of ``/completion``, ``/tokenize``, ``/detokenize``, ``/apply-template``, ``/props`` and the count of a
chat's tokens, and llama-server's form of an error. It decides nothing about parameters: what is wrong with them the
worker says.
"""
