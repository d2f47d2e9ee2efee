"""Benchmarks of speed and memory against other simulators, side by side in one run: `make bench`."""
