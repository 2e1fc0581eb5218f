"""One file for each scenario; `benchmarks.scenario` says what is in one, `benchmarks.registry` finds them."""
