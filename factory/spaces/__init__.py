"""spaces: what may be built. Torch is imported only by the modules of the networks."""

from factory.spaces.base import Assignment, SearchSpace, Variable
from factory.spaces.cell_space import CellSpace
from factory.spaces.config import SPACES, SpaceConfig, SpaceSettings, read_architecture
from factory.spaces.genotype import PUBLISHED, Genotype, find_genotype
from factory.spaces.mobile_space import MobileSettings, MobileSpace
from factory.spaces.named_networks import NAMED, named_network
from factory.spaces.nas_bench_201 import Cell201
from factory.spaces.nas_bench_201_space import NasBench201Space, Spec201
from factory.spaces.network_spec import NetworkSpec

__all__ = [
    "NAMED",
    "PUBLISHED",
    "SPACES",
    "Assignment",
    "Cell201",
    "CellSpace",
    "Genotype",
    "MobileSettings",
    "MobileSpace",
    "NasBench201Space",
    "NetworkSpec",
    "SearchSpace",
    "SpaceConfig",
    "SpaceSettings",
    "Spec201",
    "Variable",
    "find_genotype",
    "named_network",
    "read_architecture",
]
