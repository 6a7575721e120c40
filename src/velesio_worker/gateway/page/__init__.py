"""The chat page: what a browser is shown at ``/``.

Owns: the page's files (``static/``: plain ES modules, as they are, and the libraries that they use) and how they are
served. Does not own: jobs; the page submits them and follows their streams as any client of the gateway does.
"""
