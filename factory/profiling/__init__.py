"""profiling: what to measure, how often, when to trust it; the latency table."""
