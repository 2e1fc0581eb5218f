"""The native load engine of all benchmarks and fault tests.

A loop in C over epoll (the headers in this folder, wrapped by `engine.pyx`) opens connections, paces what is sent,
matches answers and records latencies, without the interpreter and without its lock. Python says what is to be done and
reads what came of it: `engine.pyi` is the interface of one process's engine, `fleet.py` runs several processes of it,
`latency.py` merges their histograms. `capacity.py` measures what the engine does by itself against servers that cost
next to nothing, so that a report can show that it was not the bottleneck.

It is built in place (`setup.py build_ext --inplace`) with the kernels; the installed package does not contain it.
"""
