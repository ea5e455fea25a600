"""methods: the axes of a search method, their choices, and the presets as rows (no torch)."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 1


def methods() -> dict[str, Any]:
    """What `factory search --list --json` prints."""
    from factory.search.axes import ACTIVATIONS, AXES
    from factory.search.config import SearchConfig
    from factory.search.presets import PRESETS, SHORT_SUFFIX

    presets = {}
    for name, preset in PRESETS.items():
        cfg = SearchConfig.model_validate({"preset": name})
        presets[name] = {
            "text": preset.text,
            "row": {axis: getattr(cfg, axis) for axis in AXES},
            "settings": cfg.model_dump(mode="json", exclude={"preset"}),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "axes": {
            axis: {name: registry.get(name).text for name in registry}
            for axis, registry in AXES.items()
        },
        "limits": {
            "latency_ms": "latency on a chip, by its predictor",
            "macs": "multiply-adds, exact",
            "params": "trainable parameters, exact",
        },
        "regularisers": {
            "beta_decay": "beta-DARTS (arXiv 2203.01665): mean logsumexp(alpha), rising with time",
            "max_skips": "most skip connections in the normal cell (P-DARTS)",
            "skip_dropout": "dropout on skips, decaying (P-DARTS; progressive)",
        },
        "activations": dict(ACTIVATIONS),
        "presets": presets,
        "short": f"every preset also as NAME{SHORT_SUFFIX}: the same row scaled down to minutes "
        "on a CPU",
    }
