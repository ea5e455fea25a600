"""Every door: its own inputs are accepted, and whatever is wrong is refused in one line."""

import math
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "doors"))  # its modules import each other by name
from door import OF_LIBRARIES, ask, known_doors
from mutations import mutated

DOORS = known_doors()
INPUTS = 40


@pytest.mark.parametrize("name", DOORS)
def test_a_valid_input_is_accepted(name, tmp_path):
    for number, content in enumerate(DOORS[name].seeds()):
        answer = ask(DOORS[name], content, tmp_path / str(number))
        assert answer.accepted, (answer.message, answer.finding, answer.detail)


@pytest.mark.parametrize("name", DOORS)
def test_a_wrong_input_is_refused_in_one_line(name, tmp_path, monkeypatch):
    door, left = DOORS[name], tmp_path / "tmp"
    left.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(left))
    seeds = [*door.seeds(), *door.refused()]
    for number in range(math.ceil(INPUTS * door.share)):
        content = mutated(random.Random(f"{name} {number}"), seeds, door.form)
        answer = ask(door, content, tmp_path / "in")
        assert not answer.finding, (content[:500], answer.finding, answer.message, answer.detail)
        names = [path.name for path in left.iterdir()]
        assert not [name for name in names if not name.startswith(OF_LIBRARIES)], content[:500]
