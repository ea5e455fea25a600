"""reporting: the report and the model cards of a run; reads artefacts only, never a model."""
