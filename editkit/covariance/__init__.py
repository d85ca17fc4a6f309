"""Second moments of a layer's inputs: the corpora, the sums, and their convergence."""
