"""What offers the load: each generator runs in a process of its own (`python -m benchmarks.load NAME`)."""
