"""What eau2 costs, against what else does the same: `make bench`, or `python -m benchmarks [names...] [--quick]`."""
