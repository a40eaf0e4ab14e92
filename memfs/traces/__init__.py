"""Access traces: recorded by the daemon, read by what asks how other capacities would do."""
