"""spaces: what may be built: the cell space, its genotypes, kernels and networks."""
