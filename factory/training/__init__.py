"""training: recipes and the loop that trains a derived network."""
