"""What Parley costs on this machine: `parley bench`. How it is measured: docs/benchmarks/README.md."""
