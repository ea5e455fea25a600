"""data: data sets and input pipelines, used by search and training."""
