"""The differentiable face of a cost that is linear in kernel counts (latency, MACs, ...).

With a presence matrix n(q) = constant + coefficients @ m(q) and one weight per kernel, the cost is
c + v @ m(q), m_i(q) = prod_e (1 - sum_o mask_i[e, o] q[e, o]): at a one-hot q exactly the
predicted cost of the derived network, so supernet and derived network are one function. Where
every monomial is one whole network (``disjoint``), it is the mean over these networks. The
computation is in float64 whatever the precision of q.
Additive differentiable latency: LA-DARTS (arXiv 2001.06392), FBNet (arXiv 1812.03443).
Legend: M monomials, E edges, O operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from factory.latency.presence import PresenceMatrix


class ExpectedCost(nn.Module):
    """Expected cost of the network that q describes.

    Args:
        weights: cost of one execution of each kernel of ``presence``, in its order.
        constant: cost that does not depend on the choice.
        presence: expected kernel counts as a function of q.
    """

    def __init__(
        self, weights: np.ndarray | Sequence[float], constant: float, presence: PresenceMatrix
    ) -> None:
        super().__init__()
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != (len(presence.kernels),):
            raise ValueError(f"{weights.shape} weights for {len(presence.kernels)} kernels")
        base, coefficients_M = presence.weighted(weights, constant)
        self.constant = float(base)
        self.cell_types = presence.cell_types()
        self.disjoint = presence.disjoint
        for name in self.cell_types:
            index_M, masks_MEO = presence.masks(name)
            used = (coefficients_M[index_M] != 0.0) | self.disjoint
            masks_MEO = 1.0 - masks_MEO if self.disjoint else masks_MEO
            self.register_buffer(f"masks_{name}", torch.from_numpy(masks_MEO[used]), False)
            self.register_buffer(
                f"coefficients_{name}", torch.from_numpy(coefficients_M[index_M][used]), False
            )

    def forward(self, q: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The cost (float64 scalar) at q: per cell type [E, O]."""
        total = torch.tensor(self.constant, dtype=torch.float64)
        for name in self.cell_types:
            q_EO = q[name].to(torch.float64)
            masks_MEO = self.get_buffer(f"masks_{name}").to(q_EO.device)
            coefficients_M = self.get_buffer(f"coefficients_{name}").to(q_EO.device)
            if self.disjoint:  # what each network has, so that small probabilities stay exact
                p_M = torch.einsum("meo,eo->me", masks_MEO, q_EO).prod(dim=1)
                total = total.to(q_EO.device) + (p_M * coefficients_M).sum() / p_M.sum()
                continue
            absent_ME = 1.0 - torch.einsum("meo,eo->me", masks_MEO, q_EO)
            total = total.to(q_EO.device) + coefficients_M @ absent_ME.prod(dim=1)
        return total


class ExpectedLatency(ExpectedCost):
    """:class:`ExpectedCost` whose weights are milliseconds.

    Its arguments are those of ``LatencyPredictor.linear_ms`` for ``presence.kernels``.
    """

    def __init__(
        self,
        weights_ms: np.ndarray | Sequence[float],
        constant_ms: float,
        presence: PresenceMatrix,
    ) -> None:
        super().__init__(weights_ms, constant_ms, presence)
