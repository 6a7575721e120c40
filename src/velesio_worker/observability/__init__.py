"""How the worker is, told to whoever asks: health, metrics, the watch over the event loop."""
