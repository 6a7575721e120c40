"""The llama.cpp server from the wheel, as a program of its own."""
