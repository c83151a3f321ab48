"""How fast the embedded history writes and reads, and how large it grows: `python -m benchmarks.history`."""
