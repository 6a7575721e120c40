"""One TLS context for all tests: reading all certificates takes longer than a test."""

from __future__ import annotations

import ssl

TLS = ssl.create_default_context()
