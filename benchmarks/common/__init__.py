"""What comparisons share: timing and workloads."""
