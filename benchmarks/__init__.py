"""What Parley costs on this machine: `python -m benchmarks`, or `make bench`. What is measured: docs/benchmarks.md."""
