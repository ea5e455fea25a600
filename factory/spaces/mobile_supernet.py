"""The relaxed mobile network: one network of the largest size, its choices as weighted sums.

A width is a mask over channels (FBNetV2, arXiv 2004.05565): channels of a narrower choice are the
first ones. Depthwise kernels run side by side, share expansion and projection, and add up. A block
beyond the depth is weighed out: y = x + p f(x), where p is the weight of the sizes that have it. So
a step costs about what the largest network costs, and at a one-hot choice the output is that of the
derived network with the first channels of the same weights.
Legend: N batch, C channels, S sizes of a stage, B sizes of the stage before, F forms of a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.spaces.base import Assignment
from factory.spaces.mixing import fixed_statistics_off
from factory.spaces.mobile_blocks import ConvLayer, Squeeze, rounded
from factory.spaces.mobile_network import (
    BlockModule,
    SqueezeExcite,
    TorchMobileNetwork,
    layer_sequence,
)
from factory.spaces.mobile_space import (
    SQUEEZE_RATIO,
    Form,
    MobileSpace,
    MobileSpec,
    Stage,
    form_name,
    size_name,
)
from factory.spaces.torch_initialise import initialise


def first_channels(widths: Iterable[int], most: int) -> Tensor:
    """[len(widths), most]: 1 for the first channels of each width."""
    return (torch.arange(most) < torch.tensor(list(widths))[:, None]).float()


def _conv(
    width: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "none"
) -> nn.Sequential:
    layer = ConvLayer(channels, kernel, stride, groups, act)
    return layer_sequence([layer], width)[0]


class DepthwiseSum(nn.Module):
    """Depthwise convolutions of several kernels with BatchNorm; kernel 0 is the identity."""

    def __init__(self, channels: int, kernels: Sequence[int], stride: int, act: str) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        self.paths = nn.ModuleDict(
            {str(k): _conv(channels, channels, k, stride, channels, act) for k in kernels if k}
        )

    def forward(self, x_NCHW: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Sum over the kernels; ``weights`` in their order."""
        parts = [
            weight * (self.paths[str(kernel)](x_NCHW) if kernel else x_NCHW)
            for kernel, weight in zip(self.kernels, weights, strict=True)
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class RelaxedBlock(nn.Module):
    """One block in all its forms and widths.

    Args:
        spec: the space.
        before: width of the input at each size of the stage before.
        stage: the block's stage.
        block: number of the block in its stage.
    """

    before_BC: Tensor
    inside_BFC: Tensor
    squeezed_BFC: Tensor
    after_SC: Tensor
    same_BS: Tensor

    def __init__(self, spec: MobileSpec, before: Sequence[int], stage: Stage, block: int) -> None:
        super().__init__()
        self.forms = stage.forms_of(block)
        stride = stage.stride if block == 0 else 1
        after = [size.width for size in stage.sizes]
        hidden = [[rounded(w * form.expansion) for form in self.forms] for w in before]
        squeezed = [[rounded(width / SQUEEZE_RATIO) for width in row] for row in hidden]
        inside, squeeze = max(map(max, hidden)), max(map(max, squeezed))
        same = torch.tensor([[float(b == a and stride == 1) for a in after] for b in before])
        for name, mask in {
            "before_BC": first_channels(before, max(before)),
            "inside_BFC": torch.stack([first_channels(row, inside) for row in hidden]),
            "squeezed_BFC": torch.stack([first_channels(row, squeeze) for row in squeezed]),
            "after_SC": first_channels(after, max(after)),
            "same_BS": same,
        }.items():
            self.register_buffer(name, mask, persistent=False)
        self.starts = sorted({form.start for form in self.forms})
        self.middles = sorted({form.middle for form in self.forms})
        act = spec.activation
        self.start = DepthwiseSum(max(before), self.starts, 1, "none")
        self.expand = _conv(max(before), inside, act=act)
        self.middle = DepthwiseSum(inside, self.middles, stride, act)
        self.squeeze = SqueezeExcite(Squeeze(squeeze), inside) if spec.squeeze else None
        self.project = _conv(inside, max(after))

    def forward(self, x_NCHW: Tensor, before_B: Tensor, size_S: Tensor, form_F: Tensor) -> Tensor:
        """The block with its shortcut, on an input that is zero beyond its width.

        Args:
            x_NCHW: input.
            before_B: weights of the input's widths.
            size_S: weights of the stage's sizes.
            form_F: weights of the forms.
        """
        before_C = before_B @ self.before_BC
        inside_C = torch.einsum("b,f,bfc->c", before_B, form_F, self.inside_BFC)
        y = _masked(self.start(x_NCHW, self._weights(form_F, "start", self.starts)), before_C)
        y = _masked(self.expand(y), inside_C)
        y = _masked(self.middle(y, self._weights(form_F, "middle", self.middles)), inside_C)
        if self.squeeze is not None:
            y = self.squeeze(y, torch.einsum("b,f,bfc->c", before_B, form_F, self.squeezed_BFC))
        y = _masked(self.project(y), size_S @ self.after_SC)
        if not self.same_BS.any():
            return y
        more = y.shape[1] - x_NCHW.shape[1]
        x = F.pad(x_NCHW, (0, 0, 0, 0, 0, more)) if more > 0 else x_NCHW[:, : y.shape[1]]
        return y + (before_B @ self.same_BS @ size_S) * x

    def beyond(self, x_NCHW: Tensor, size_S: Tensor, form_F: Tensor, p: Tensor) -> Tensor:
        """A block that is there with weight ``p``; its input has the stage's own width."""
        return x_NCHW + p * (self(x_NCHW, size_S, size_S, form_F) - x_NCHW)

    def parts(self, form: Form) -> nn.Module:
        """The layers of one form, in the order of the derived block."""
        found: list[nn.Module | None] = [self.expand, self.squeeze, self.project]
        if form.middle:
            found.insert(1, self.middle.paths[str(form.middle)])
        if form.start:
            found.insert(0, self.start.paths[str(form.start)])
        return nn.ModuleList(part for part in found if part is not None)

    def _weights(self, form_F: Tensor, name: str, kernels: Sequence[int]) -> list[Tensor]:
        """Weight of each kernel: that of all forms that have it."""
        return [
            sum(
                (form_F[i] for i, f in enumerate(self.forms) if getattr(f, name) == k),
                form_F[0] * 0,
            )
            for k in kernels
        ]


def _masked(x_NCHW: Tensor, mask_C: Tensor) -> Tensor:
    return x_NCHW * mask_C[:, None, None]


class MobileSupernet(nn.Module):
    """Stem, relaxed stages and head; called with pictures and the weights of each variable."""

    def __init__(self, space: MobileSpace, seed: int) -> None:
        super().__init__()
        spec = space.spec
        self.space, self.stages = space, spec.stages
        width, stem = spec.input_shape[0], []
        for block in spec.stem:
            stem.append(BlockModule(block, width))
            width = stem[-1].width
        self.stem = nn.Sequential(*stem)
        before, self.rows = [width], list[list[RelaxedBlock]]()
        for stage in spec.stages:
            own = [size.width for size in stage.sizes]
            self.rows.append(
                [RelaxedBlock(spec, own if j else before, stage, j) for j in range(stage.depth)]
            )
            before = own
        self.blocks = nn.ModuleList(itertools.chain.from_iterable(self.rows))
        self.head = layer_sequence(spec.head.layers(spec.num_classes), max(before))[0]
        fixed_statistics_off(self)
        initialise(self, seed)

    def forward(self, image_NCHW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Logits."""
        x = self.stem(image_NCHW)
        before = x.new_ones(1)
        for i, (stage, row) in enumerate(zip(self.stages, self.rows, strict=True)):
            size_S = weights[size_name(i)]
            for j, block in enumerate(row):
                form_F = weights[form_name(i, 0 if stage.alike else j)]
                if j == 0:
                    x = block(x, before, size_S, form_F)
                    continue
                there = [s for s, size in enumerate(stage.sizes) if size.depth > j]
                x = block.beyond(x, size_S, form_F, size_S[there].sum())
            before = size_S
        return self.head(x)

    @torch.no_grad()
    def cut_out(self, architecture: Assignment) -> TorchMobileNetwork:
        """The derived network with the first channels of these weights.

        In training mode it gives the outputs that the supernet gives at this choice; its BatchNorm
        statistics are not set.
        """
        space = self.space
        network = space.network(architecture)
        sources: list[nn.Module] = list(self.stem)
        for i, forms in enumerate(space.forms(architecture)):
            sources += [self.rows[i][j].parts(form) for j, form in enumerate(forms)]
        for theirs, ours in zip(
            [*network.blocks, network.head], [*sources, self.head], strict=True
        ):
            _copy_first(theirs, ours)
        return network


def _copy_first(theirs: nn.Module, ours: nn.Module) -> None:
    """Weights of ``theirs``: the first ones along each axis of the same weights of ``ours``."""
    for mine, given in zip(theirs.parameters(), ours.parameters(), strict=True):
        mine.copy_(given[tuple(map(slice, mine.shape))])
