"""The benchmark: `tools/bench.sh`."""
