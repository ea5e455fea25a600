"""pipeline: the line: recipe, stage order, run folder, resume, the verbs."""
