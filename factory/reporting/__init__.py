"""reporting: HTML, plots and JSON; reads artefacts only, never a model or a device."""
