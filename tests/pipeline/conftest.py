"""A very small recipe on a simulated chip (labelled so), for tests of the line itself."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test files import each other by plain name
from tiny_recipe import write_tiny


@pytest.fixture
def tiny(tmp_path):
    """Path of the tiny recipe; its device profile lies beside it."""
    return write_tiny(tmp_path)


@pytest.fixture(scope="session")
def tiny_in():
    """Writes the tiny recipe into a folder."""
    return write_tiny
