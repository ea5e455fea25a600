"""spaces: what may be built. Torch is imported only by operators.py and cell_network.py."""

from factory.core.registry import Registry
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import PUBLISHED, Genotype, find_genotype
from factory.spaces.network_spec import NetworkSpec

SPACES: Registry[type[CellSpace]] = Registry("search space")
SPACES.add("cell", CellSpace)

__all__ = ["PUBLISHED", "SPACES", "CellSpace", "Genotype", "NetworkSpec", "find_genotype"]
