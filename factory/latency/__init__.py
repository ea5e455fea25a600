"""latency: from measured facts to predictions, and the differentiable face of a prediction."""
