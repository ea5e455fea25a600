"""`factory fit`: a predictor from a latency table."""

from __future__ import annotations

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.report_lines import predictor_lines


def fit(
    device: options.Device,
    run: options.Run = None,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Fit the latency predictor of a chip and show its errors on networks it has not seen."""
    from factory.api import fit as verb

    answer = verb(device, run=run, seed=seed or 0)
    if json:
        print_json(answer)
        return
    lines = predictor_lines(answer["report"], answer["simulated"])
    print_lines([*lines, f"predictor: {answer['predictor']}"])
