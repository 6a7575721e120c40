"""From a claimed job to its end: consumers, handler, admission and executor, performer, closing."""
