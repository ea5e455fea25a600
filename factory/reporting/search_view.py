"""What the report tells of a search: its diagnostics, and its statistics over seeds, as text."""

from __future__ import annotations

from factory.reporting.artefacts import Json, TierArtefacts, mapping, number
from factory.reporting.search_figures import epoch_rows

SHOWN = {  # of seeds.json, in this order
    "derived_loss": "loss of the derived network",
    "gap": "gap to the supernet",
    "skip_share": "skip share",
    "entropy": "entropy",
}


def diagnostics(tier: TierArtefacts) -> list[tuple[str, str]]:
    """(name, value) of what was watched, as it stood at the end; empty without a search."""
    search, rows = tier.search, epoch_rows(tier)
    found: list[tuple[str, str]] = []
    method = mapping(search.get("method"))
    if method:
        found.append(("method", ", ".join(str(value) for value in method.values())))
    for name, share in mapping(search.get("skip_share_by_cell")).items():
        value = number(share)
        if value is not None:
            found.append((f"skip share, {name} cell", f"{value:.0%} (without the skip limit)"))
    entropy, gap = number(search.get("entropy")), number(search.get("gap"))
    if entropy is not None:
        found.append(("entropy of alpha", f"{entropy:.3f} (1: undecided, 0: decided)"))
    if gap is not None:
        found.append(("gap", f"{gap:+.3f} (loss of the derived network above the supernet's)"))
    known = [(row.get("epoch"), number(row.get("hessian_eigenvalue"))) for row in rows]
    sharp = [(epoch, value) for epoch, value in known if value is not None]
    if sharp:
        (_, first), (epoch, last) = sharp[0], sharp[-1]
        text = f"{last:.3g} after epoch {epoch}, {first:.3g} at first"
        found.append(("largest Hessian eigenvalue", text))
    if search:
        found.append(("ended", str(search.get("stopped") or "after its last epoch")))
    return found


def seed_rows(tier: TierArtefacts) -> Json | None:
    """Statistics over the seeds of a tier: {"seeds", "best", "different", "rows", "stopped"}."""
    values = mapping(tier.seeds.get("values"))
    seeds = tier.seeds.get("seeds")
    if not values or not isinstance(seeds, list):
        return None
    names = [name for name in SHOWN if name in values]
    names += [name for name in values if name not in SHOWN]
    rows = []
    for name in names:
        entry = mapping(values[name])
        numbers = [number(entry.get(key)) for key in ("mean", "stdev", "least", "largest")]
        shown = ["" if value is None else f"{value:.4g}" for value in numbers]
        rows.append((SHOWN.get(name, name), *shown))
    stopped = tier.seeds.get("stopped")
    return {
        "seeds": len(seeds),
        "best": tier.seeds.get("best_seed"),
        "different": tier.seeds.get("different_genotypes"),
        "rows": rows,
        "stopped": sum(bool(reason) for reason in stopped) if isinstance(stopped, list) else 0,
    }
