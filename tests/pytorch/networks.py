"""The networks in plain torch.nn, written from the descriptions in their papers and code bases, not from relujax.

Layers are defined in the order in which they are called, and weights are paired by that order. `act` is one module
without parameters that stands everywhere.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class TanhExp(nn.Module):
    """x · tanh(exp(x)), arXiv:2003.09855, eq. 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(torch.exp(x))


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the channels that are missing (type A of He et al. 2015)."""

    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.missing, self.stride = filters - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


class ChannelShuffle(nn.Module):
    """The channels as a table with one row per group, read column by column."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def conv(inputs: int, filters: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, bias: bool = False):
    return nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def pooled_head(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


class ResNetBlock(nn.Module):
    """conv-BN-act-conv-BN, plus the shortcut, then act; arXiv:1512.03385, Fig. 2."""

    def __init__(self, inputs, filters, stride, act, *, shortcut, act_inside, act_after, bn_inside):
        super().__init__()
        self.residual = nn.Sequential(
            conv(inputs, filters, stride=stride),
            nn.BatchNorm2d(filters) if bn_inside else nn.Identity(),
            act if act_inside else nn.Identity(),
            conv(filters, filters),
            nn.BatchNorm2d(filters),
        )
        if inputs == filters:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(inputs, filters, stride)
        else:
            self.shortcut = nn.Sequential(conv(inputs, filters, 1, stride), nn.BatchNorm2d(filters))
        self.after = act if act_after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.residual(x) + self.shortcut(x))


def resnet(depth, classes, act, *, shortcut, act_inside=True, act_after=True, bn_inside=True) -> nn.Sequential:
    """Stem, three stages of (depth − 2) / 6 blocks with 16, 32 and 64 filters, head."""
    options = {"shortcut": shortcut, "act_inside": act_inside, "act_after": act_after, "bn_inside": bn_inside}
    layers: list[nn.Module] = [conv(3, 16), nn.BatchNorm2d(16), act]
    inputs = 16
    for filters in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(ResNetBlock(inputs, filters, filters // inputs, act, **options))
            inputs = filters
    return nn.Sequential(*layers, pooled_head(64, classes))


class PreActBlock(nn.Module):
    """BN-act-conv, two or three times, plus the raw input; arXiv:1603.05027, Fig. 1b.

    The first act may go, with its BN or without. Where the width changes, the shortcut is a 1×1 convolution without BN.
    """

    def __init__(self, inputs, width, stride, act, *, bottleneck, shortcut, first_act, first_bn):
        super().__init__()
        filters = 4 * width if bottleneck else width
        first = [nn.BatchNorm2d(inputs) if first_bn else nn.Identity(), act if first_act else nn.Identity()]
        if bottleneck:
            rest = [
                conv(inputs, width, 1),
                *(nn.BatchNorm2d(width), act, conv(width, width, 3, stride)),
                *(nn.BatchNorm2d(width), act, conv(width, filters, 1)),
            ]
        else:
            rest = [conv(inputs, width, 3, stride), nn.BatchNorm2d(width), act, conv(width, width)]
        self.residual = nn.Sequential(*first, *rest)
        if inputs == filters:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(inputs, filters, stride)
        else:
            self.shortcut = conv(inputs, filters, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


def preact_resnet(
    depth, classes, act, *, bottleneck=False, shortcut="projection", first_act=True, first_bn=True
) -> nn.Sequential:
    """Stem without BN, three stages of width 16, 32 and 64, a last BN-act, head."""
    options = {"bottleneck": bottleneck, "shortcut": shortcut, "first_act": first_act, "first_bn": first_bn}
    layers: list[nn.Module] = [conv(3, 16)]
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range((depth - 2) // (9 if bottleneck else 6)):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(PreActBlock(inputs, width, stride, act, **options))
            inputs = 4 * width if bottleneck else width
    return nn.Sequential(*layers, nn.BatchNorm2d(inputs), act, pooled_head(inputs, classes))


class MergeAndRun(nn.Module):
    """Two lines that exchange the mean m of their inputs: a' = act(m + F(a)), b' = act(m + G(b)); arXiv:1611.07718.

    The last block of the network joins them: act(m + F(a) + G(b)). On line a, `act_inside` and `act_after` may go.
    """

    def __init__(self, inputs, filters, stride, act, *, act_inside, act_after, last):
        super().__init__()

        def bn() -> nn.BatchNorm2d:
            return nn.BatchNorm2d(filters, eps=2e-5)

        def branch(inside: nn.Module) -> nn.Sequential:
            return nn.Sequential(conv(inputs, filters, 3, stride), bn(), inside, conv(filters, filters), bn())

        def shortcut() -> nn.Module:
            return nn.Identity() if inputs == filters else nn.Sequential(conv(inputs, filters, 1, stride), bn())

        self.branch_a, self.branch_b = branch(act if act_inside else nn.Identity()), branch(act)
        self.shortcut_a, self.shortcut_b = shortcut(), shortcut()
        self.act, self.after_a, self.last = act, act if act_after else nn.Identity(), last

    def forward(self, lines: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = lines
        mean = 0.5 * (self.shortcut_a(a) + self.shortcut_b(b))
        if self.last:
            joined = self.act(mean + self.branch_a(a) + self.branch_b(b))
            return joined, joined
        return self.after_a(mean + self.branch_a(a)), self.act(mean + self.branch_b(b))


class DFNMR(nn.Module):
    """(depth − 2) / 4 blocks; where three stages cannot share them evenly, the earlier get fewer."""

    def __init__(self, depth, classes, act, *, act_inside=True, act_after=True):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, eps=2e-5), act)
        blocks = (depth - 2) // 4
        first, second = blocks // 3, (blocks - blocks // 3) // 2
        widths = [16] * first + [32] * second + [64] * (blocks - first - second)
        self.blocks = nn.Sequential()
        for number, (inputs, filters) in enumerate(zip([16, *widths], widths), start=1):
            options = {"act_inside": act_inside, "act_after": act_after, "last": number == blocks}
            self.blocks.append(MergeAndRun(inputs, filters, filters // inputs, act, **options))
        self.head = pooled_head(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        joined, _ = self.blocks((x, x))
        return self.head(joined)


def lenet(classes, act) -> nn.Sequential:
    """For 32×32 images: 5×5 convolutions without padding, pooling, then 400 – 120 – 84 – classes."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), act, nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), act, nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), act, nn.Linear(120, 84), act, nn.Linear(84, classes)),
    )


def mobilenet(classes, act) -> nn.Sequential:
    """arXiv:1704.04861, Table 1, at stride 1 in the stem; biases in the 1×1 convolutions only."""
    layers: list[nn.Module] = [conv(3, 32), nn.BatchNorm2d(32), act]
    inputs = 32
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for filters in widths:
        stride = 2 if filters == 2 * inputs and inputs > 32 else 1
        layers += [conv(inputs, inputs, 3, stride, groups=inputs), nn.BatchNorm2d(inputs), act]
        layers += [conv(inputs, filters, 1, bias=True), nn.BatchNorm2d(filters), act]
        inputs = filters
    return nn.Sequential(*layers, pooled_head(1024, classes))


class InvertedResidual(nn.Module):
    """1×1 wider, 3×3 per channel, 1×1 narrower and linear, plus the input where it fits; arXiv:1801.04381, Fig. 4."""

    def __init__(self, inputs, filters, stride, expansion, act):
        super().__init__()
        inner = expansion * inputs
        self.residual = nn.Sequential(
            *(conv(inputs, inner, 1, bias=True), nn.BatchNorm2d(inner), act),
            *(conv(inner, inner, 3, stride, groups=inner, bias=True), nn.BatchNorm2d(inner), act),
            *(conv(inner, filters, 1, bias=True), nn.BatchNorm2d(filters)),
        )
        self.adds = stride == 1 and inputs == filters

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.adds else self.residual(x)


def mobilenet_v2(classes, act) -> nn.Sequential:
    """Table 2 there, behind a padded 1×1 stem; the classifier, a 1×1 convolution of a 1×1 map, is a linear layer."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 1, padding=1), nn.BatchNorm2d(32), act]
    inputs = 32
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1)]
    for expansion, filters, blocks, first_stride in rows:
        for stride in [first_stride] + [1] * (blocks - 1):
            layers.append(InvertedResidual(inputs, filters, stride, expansion, act))
            inputs = filters
    layers += [conv(320, 1280, 1, bias=True), nn.BatchNorm2d(1280), act]
    return nn.Sequential(*layers, pooled_head(1280, classes))


class Fire(nn.Module):
    """Squeeze by 1×1, expand by 1×1 and 3×3 side by side, with BN and act each; arXiv:1602.07360, Fig. 1."""

    def __init__(self, inputs, squeeze, filters, act, *, bypass=False):
        super().__init__()

        def unit(inputs: int, filters: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(conv(inputs, filters, kernel, bias=True), nn.BatchNorm2d(filters), act)

        self.squeeze = unit(inputs, squeeze, 1)
        self.expand1, self.expand3 = unit(squeeze, filters // 2, 1), unit(squeeze, filters // 2, 3)
        self.bypass = bypass

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        y = torch.cat([self.expand1(squeezed), self.expand3(squeezed)], dim=1)
        return x + y if self.bypass else y


def squeezenet(classes, act) -> nn.Sequential:
    """Eight fires, of which every other one has a bypass, and a 1×1 convolution whose maps are averaged."""
    return nn.Sequential(
        *(conv(3, 96, bias=True), nn.BatchNorm2d(96), act, nn.MaxPool2d(2)),
        Fire(96, 16, 128, act),
        Fire(128, 16, 128, act, bypass=True),
        Fire(128, 32, 256, act),
        nn.MaxPool2d(2),
        Fire(256, 32, 256, act, bypass=True),
        Fire(256, 48, 384, act),
        Fire(384, 48, 384, act, bypass=True),
        Fire(384, 64, 512, act),
        nn.MaxPool2d(2),
        Fire(512, 64, 512, act),
        *(nn.Conv2d(512, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class ShuffleUnit(nn.Module):
    """arXiv:1707.01083, Fig. 2b: grouped 1×1, shuffle, 3×3 per channel, grouped 1×1, plus the input.

    Fig. 2c at stride 2: the input is averaged, and the branch supplies the channels that it lacks.
    """

    def __init__(self, inputs, filters, stride, act, groups=3):
        super().__init__()
        inner, outputs = filters // 4, filters - inputs if stride == 2 else filters
        self.residual = nn.Sequential(
            *(conv(inputs, inner, 1, groups=groups, bias=True), nn.BatchNorm2d(inner), act, ChannelShuffle(groups)),
            *(conv(inner, inner, 3, stride, groups=inner, bias=True), nn.BatchNorm2d(inner)),
            *(conv(inner, outputs, 1, groups=groups, bias=True), nn.BatchNorm2d(outputs)),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is None:
            return self.act(x + self.residual(x))
        return self.act(torch.cat([self.pool(x), self.residual(x)], dim=1))


def shufflenet(classes, act) -> nn.Sequential:
    """Stem of 24 filters, then 4, 8 and 4 units of 240, 480 and 960 filters in 3 groups."""
    layers: list[nn.Module] = [conv(3, 24, bias=True), nn.BatchNorm2d(24), act]
    inputs = 24
    for filters, units in ((240, 4), (480, 8), (960, 4)):
        for stride in [2] + [1] * (units - 1):
            layers.append(ShuffleUnit(inputs, filters, stride, act))
            inputs = filters
    return nn.Sequential(*layers, pooled_head(960, classes))


class ShuffleUnitV2(nn.Module):
    """arXiv:1807.11164, Fig. 3c: the second half of the channels is convolved, then both halves are shuffled.

    Fig. 3d at stride 2: both branches see every channel.
    """

    def __init__(self, inputs, filters, stride, act):
        super().__init__()
        self.splits = stride == 1
        half = filters // 2
        inner = half if self.splits else inputs
        self.residual = nn.Sequential(
            *(conv(inner, inner, 1, bias=True), nn.BatchNorm2d(inner), act),
            *(conv(inner, inner, 3, stride, groups=inner, bias=True), nn.BatchNorm2d(inner)),
            *(conv(inner, half, 1, bias=True), nn.BatchNorm2d(half), act),
        )
        if self.splits:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                *(conv(inputs, inputs, 3, stride, groups=inputs, bias=True), nn.BatchNorm2d(inputs)),
                *(conv(inputs, half, 1, bias=True), nn.BatchNorm2d(half), act),
            )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.splits else (x, x)
        return self.shuffle(torch.cat([self.shortcut(left), self.residual(right)], dim=1))


def shufflenet_v2(classes, act) -> nn.Sequential:
    """Stem of 24 filters without act, 4, 8 and 4 units of 116, 232 and 464 filters, a 1×1 convolution, head."""
    layers: list[nn.Module] = [conv(3, 24, bias=True), nn.BatchNorm2d(24)]
    inputs = 24
    for filters, units in ((116, 4), (232, 8), (464, 4)):
        for stride in [2] + [1] * (units - 1):
            layers.append(ShuffleUnitV2(inputs, filters, stride, act))
            inputs = filters
    layers += [conv(464, 1024, 1, bias=True), nn.BatchNorm2d(1024), act]
    return nn.Sequential(*layers, pooled_head(1024, classes))


class SEBlock(nn.Module):
    """conv-BN-act-conv-BN-act, weighted per channel by its own mean, plus the shortcut, then act; arXiv:1709.01507."""

    def __init__(self, inputs, filters, stride, act):
        super().__init__()
        self.residual = nn.Sequential(
            *(conv(inputs, filters, 3, stride, bias=True), nn.BatchNorm2d(filters), act),
            *(conv(filters, filters, bias=True), nn.BatchNorm2d(filters), act),
        )
        self.gate = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, filters // 16), act),
            *(nn.Linear(filters // 16, filters), nn.Sigmoid(), nn.Unflatten(1, (filters, 1, 1))),
        )
        if inputs == filters:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(conv(inputs, filters, 1, stride, bias=True), nn.BatchNorm2d(filters))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(x)
        return self.act(y * self.gate(y) + self.shortcut(x))


def senet18(classes, act) -> nn.Sequential:
    """Stem of 64 filters, two blocks each of 64, 128, 256 and 516 filters, head."""
    layers: list[nn.Module] = [conv(3, 64, bias=True), nn.BatchNorm2d(64), act]
    inputs = 64
    for filters in (64, 128, 256, 516):
        for _ in range(2):
            layers.append(SEBlock(inputs, filters, 1 if filters in (inputs, 64) else 2, act))
            inputs = filters
    return nn.Sequential(*layers, pooled_head(516, classes))


def autoencoder(act) -> nn.Sequential:
    """784 – 1000 – 500 – 250 – 30 – 250 – 500 – 1000 – 784, a linear code, sigmoid output; arXiv:1511.07289, 4.1."""
    widths = (784, 1000, 500, 250)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, units), act]
    layers += [nn.Linear(250, 30), nn.Linear(30, 250), act]
    for inputs, units in ((250, 500), (500, 1000)):
        layers += [nn.Linear(inputs, units), act]
    return nn.Sequential(*layers, nn.Linear(1000, 784), nn.Sigmoid())


def deep_dense(depth, classes, act, *, rate=0.25) -> nn.Sequential:
    """Two 5×5 convolutions, pooling, depth − 3 dense layers of 500 units, head; arXiv:2003.09855, Fig. 4."""
    layers: list[nn.Module] = [nn.Conv2d(1, 20, 5), act, nn.Conv2d(20, 50, 5), act, nn.MaxPool2d(2), nn.Dropout(rate)]
    layers.append(nn.Flatten())
    for inputs in (5000, *(depth - 4) * (500,)):
        layers += [nn.Linear(inputs, 500), nn.BatchNorm1d(500, eps=1e-3, momentum=0.01), act, nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(500, classes))
