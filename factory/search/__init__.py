"""search: supernet, architecture gradient, schedule and budgets."""
