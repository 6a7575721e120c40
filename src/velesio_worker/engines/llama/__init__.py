"""Text: llama-server, started, asked and read."""
