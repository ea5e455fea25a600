"""deployment: from a trained network to deployable files: export, graph passes, quantisation."""
