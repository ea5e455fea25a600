"""core: words everyone shares (errors, units, registry, atomic files, provenance, progress)."""
