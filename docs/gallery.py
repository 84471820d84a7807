"""The block of every network as a figure, drawn from the module itself: `python docs/gallery.py PAGE`.

A module is traced with its layers as opaque operations; what stands between them (sums, means, concatenations) is read
off the trace. So a figure cannot differ from the code.
"""

import html
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import ShapedArray
from jax.extend.core import Literal, Primitive

from relujax import layers, models, placement
from relujax.activations import ACTIVATIONS, get_activation, identity
from relujax.models.alexnet import AlexNet
from relujax.models.deep_dense import DeepDense
from relujax.models.dfn_mr import DFNMR
from relujax.models.elu_net import ELUNet11, ELUNet18, ELUNetImageNet
from relujax.models.landscape import OutputLandscape
from relujax.models.lenet import LeNet
from relujax.models.mlp import MLP, Autoencoder
from relujax.models.mobilenet import MobileNet, MobileNetV2
from relujax.models.plain import Plain
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.models.resnet_elu import BLOCKS, ResNetELU
from relujax.models.resnet_v1_keras import ResNetV1Keras
from relujax.models.senet import SENet
from relujax.models.shufflenet import ShuffleNet, ShuffleNetV2
from relujax.models.squeezenet import SqueezeNet

CIFAR, MNIST, IMAGENET, POINTS = (1, 32, 32, 3), (1, 28, 28, 1), (1, 224, 224, 3), (1, 2)


class Figure(NamedTuple):
    """One drawing: what it shows, in which network, and the path of the block; "" for the whole network."""

    caption: str
    network: nn.Module
    block: str = ""
    images: tuple[int, ...] = CIFAR


def _placed(network: nn.Module, names: Sequence[str]) -> list[Figure]:
    """The first block of `network`, placed in each of these ways."""
    return [Figure(name, network.clone(placement=getattr(placement, name)), "stage1_block1") for name in names]


FIGURES: dict[str, list[Figure]] = {
    "Plain": [
        Figure("every layer, 1:1", Plain(8, 10), "stage1_layer1"),
        Figure(
            "a layer without activation: 1st, 3rd, 5th … of 2:1",
            Plain(8, 10, placement=placement.TWO_TO_ONE),
            "stage1_layer1",
        ),
    ],
    "ResNet": [
        *_placed(ResNet(8, 10), ("PAIRED", "DROP_FIRST", "DROP_LAST")),
        Figure('where the shape changes, shortcut="pad"', ResNet(8, 10), "stage2_block1"),
        Figure('shortcut="projection"', ResNet(8, 10, shortcut="projection"), "stage2_block1"),
    ],
    "PreActResNet": [
        *_placed(PreActResNet(8, 10), ("PAIRED", "DROP_FIRST", "DROP_LAST")),
        Figure("where the shape changes", PreActResNet(8, 10), "stage2_block1"),
    ],
    "PreActResNet, bottleneck": _placed(
        PreActResNet(11, 10, block="bottleneck"),
        ("PAIRED", "BOTTLENECK_TYPE_1", "BOTTLENECK_TYPE_2", "BOTTLENECK_TYPE_3"),
    ),
    "DFNMR": [
        *_placed(DFNMR(26, 10), ("PAIRED", "TYPE_1", "TYPE_2", "TYPE_3")),
        Figure("where the shape changes", DFNMR(26, 10), "stage2_block1"),
        Figure("the last block", DFNMR(26, 10), "stage3_block2"),
    ],
    "ResNetELU": [
        Figure(f"{block}: {what}", ResNetELU(8, 10, block), "stage1_block1") for block, what in BLOCKS.items()
    ],
    "ResNetV1Keras": [
        Figure("within a stage", ResNetV1Keras(8, 10, "tanhexp"), "stage1_block1"),
        Figure("where the shape changes", ResNetV1Keras(8, 10, "tanhexp"), "stage2_block1"),
    ],
    "SENet": [
        Figure("within a stage", SENet(18, 10), "stage1_block2"),
        Figure("where the shape changes", SENet(18, 10), "stage2_block1"),
    ],
    "MobileNet": [Figure("depthwise-separable block", MobileNet(10), "block2")],
    "MobileNetV2": [
        Figure("inverted residual with its shortcut", MobileNetV2(10), "stage2_block2"),
        Figure("where the shape changes", MobileNetV2(10), "stage2_block1"),
    ],
    "ShuffleNet": [
        Figure("unit within a stage", ShuffleNet(10), "stage2_unit2"),
        Figure("where the shape changes", ShuffleNet(10), "stage2_unit1"),
    ],
    "ShuffleNetV2": [
        Figure("unit within a stage", ShuffleNetV2(10), "stage2_unit2"),
        Figure("where the shape changes", ShuffleNetV2(10), "stage2_unit1"),
    ],
    "SqueezeNet": [Figure("fire", SqueezeNet(10), "fire3")],
    "ELUNet11": [Figure("the second stack", ELUNet11(100), "stack2")],
    "ELUNet18": [
        Figure("the last stack", ELUNet18(100), "stack7"),
        Figure("the same with BatchNorm", ELUNet18(100, batch_norm=True), "stack7"),
    ],
    "ELUNetImageNet": [Figure("the second stack", ELUNetImageNet(1000), "stack2", IMAGENET)],
    "DeepDense": [
        Figure("one of the dense layers", DeepDense(15, 10), "layer1", MNIST),
        Figure('noise="gaussian"', DeepDense(15, 10, noise="gaussian"), "layer1", MNIST),
        Figure('the smallest network, noise="alpha"', DeepDense(4, 10, noise="alpha"), images=MNIST),
    ],
    "MLP": [Figure("with two hidden layers", MLP(2, 128, 10, "elu"), images=MNIST)],
    "Autoencoder": [Figure("the whole network", Autoencoder("elu"), images=MNIST)],
    "AlexNet": [Figure("the whole network", AlexNet(10))],
    "LeNet": [Figure("the whole network", LeNet(10))],
    "OutputLandscape": [Figure("the whole network", OutputLandscape(), images=POINTS)],
}


# From a module to a graph.


@dataclass(eq=False)
class Node:
    """A layer or an operation; `inputs` are the nodes that it reads."""

    kind: str  # input, conv, dense, norm, activation, off, noise, other, sum, output
    label: str
    inputs: list["Node"]
    name: str = ""  # the layer's own, as in a checkpoint


LAYER = Primitive("layer")  # stands for one whole layer in the trace
LAYER.def_abstract_eval(lambda x, *, out, **described: ShapedArray(*out))

# Functions between layers; "" for one that changes nothing.
FUNCTIONS = {
    "settle": "",
    "flatten": "flatten",
    "max_pool": "max-pool",
    "global_average_pool": "mean over the image",
    "pad_shortcut": "every 2nd pixel, zeros",
    "channel_shuffle": "shuffle channels",
    "_average_pool": "average-pool 3×3",
    "spatial_pyramid_pool": "spatial pyramid pool",
}


@cache
def blocks_of(network: nn.Module, images: tuple[int, ...]) -> dict[str, tuple[nn.Module, list[Any]]]:
    """Every module of the network that is no layer: path → the module, unbound, and what it is called with."""
    found: dict[str, tuple[nn.Module, list[Any]]] = {}

    def note(call, args, kwargs, context):
        if context.method_name == "__call__" and _is_block(context.module):
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args]
            found["/".join(context.module.path)] = (context.module.clone(parent=None), shapes)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda x: network.init(jax.random.key(0), x, train=False), jax.ShapeDtypeStruct(images, jnp.float32)
        )
    return found


def graph_of(module: nn.Module, inputs: Sequence[jax.ShapeDtypeStruct]) -> list[Node]:
    """The module's layers and the operations between them, each after what it reads; inputs first, outputs last."""

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name != "__call__" or _is_block(context.module):
            return out
        kind, label = _describe(context.module, args[0])
        return _layer(args[0], out, kind, label, "/".join(context.module.path))

    with nn.intercept_methods(note), _functions_as_layers():
        traced = jax.make_jaxpr(lambda *xs: module.init_with_output(jax.random.key(0), *xs, train=False)[0])(*inputs)
    nodes = {variable: Node("input", _shape(variable.aval), []) for variable in traced.jaxpr.invars}
    starts = list(nodes.values())
    _read(traced.jaxpr, nodes)
    ends = [
        Node("output", _shape(variable.aval), [nodes[variable]]) for variable in dict.fromkeys(traced.jaxpr.outvars)
    ]
    return _ordered([*starts, *ends])


def _is_block(module: nn.Module) -> bool:
    return type(module).__module__.startswith(models.__name__)


def _describe(module: nn.Module, x: Any) -> tuple[str, str]:
    """Kind and label of a layer; the kind is "" where it does nothing."""
    match module:
        case nn.Conv():
            kernel = "×".join(map(str, np.atleast_1d(module.kernel_size)))
            stride = int(np.max(module.strides or 1))
            groups = module.feature_group_count
            label = f"{kernel} conv, {module.features}" + (f", {groups} groups" if groups > 1 else "")
            if 1 < groups == x.shape[-1]:
                label = f"{kernel} per channel"
            return "conv", label + (f", stride {stride}" if stride > 1 else "")
        case nn.Dense():
            return "dense", f"dense, {module.features}"
        case nn.BatchNorm():
            return "norm", "BatchNorm"
        case layers.Activation():
            function = get_activation(module.function)
            if not module.on or function is identity:
                return "off", "no activation"
            names = [name for name, known in ACTIVATIONS.items() if known is function]
            return "activation", names[0] if names else type(function).__name__
    rate = getattr(module, "rate", 0)
    names = {"Dropout": "dropout", "GaussianDropout": "Gaussian dropout", "AlphaDropout": "alpha dropout"}
    return ("noise" if rate else ""), f"{names.get(type(module).__name__, type(module).__name__)} {rate:g}"


def _layer(x: Any, out: Any, kind: str, label: str, name: str) -> Any:
    if not kind:
        return x
    return LAYER.bind(x, out=(out.shape, out.dtype), kind=kind, label=label, name=name)


@contextmanager
def _functions_as_layers() -> Iterator[None]:
    """While it lasts, the functions that networks call between their layers are layers, too."""

    def opaque(function, label):
        def call(x, *args, **kwargs):
            out = function(x, *args, **kwargs)
            changed = label and not (function is layers.pad_shortcut and out.shape == x.shape)
            return _layer(x, out, "other" if changed else "", label, "")

        return call

    with ExitStack() as stack:
        for module in [m for name, m in sys.modules.items() if name.startswith(models.__name__ + ".")]:
            for name in FUNCTIONS.keys() & vars(module).keys():
                stack.enter_context(mock.patch.object(module, name, opaque(getattr(module, name), FUNCTIONS[name])))
        yield


def _read(jaxpr: Any, nodes: dict[Any, Node]) -> None:
    """Adds to `nodes` what each variable of the trace comes from; what depends on no input has no node."""
    for equation in jaxpr.eqns:
        read = [nodes[x] for x in equation.invars if not isinstance(x, Literal) and x in nodes]
        if not read:
            continue
        match equation.primitive.name:
            case "layer":
                given = equation.params
                node = Node(given["kind"], given["label"], read, given["name"])
            case "jit" | "pjit" | "closed_call" | "custom_jvp_call" | "remat2" | "checkpoint":
                inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                inner = getattr(inner, "jaxpr", inner)
                inside = {
                    v: nodes[x]
                    for v, x in zip(inner.invars, equation.invars)
                    if not isinstance(x, Literal) and x in nodes
                }
                _read(inner, inside)
                nodes |= {
                    v: inside[x]
                    for v, x in zip(equation.outvars, inner.outvars)
                    if not isinstance(x, Literal) and x in inside
                }
                continue
            case "add" | "add_any" if len(read) > 1:
                # a + b + c is one sum.
                terms = [term for node in read for term in (node.inputs if node.label == "+" else [node])]
                node = Node("sum", "+", terms)
            case "mul" if len(read) > 1:
                node = Node("sum", "×", read)
            case "div" if isinstance(equation.invars[1], Literal):
                node = Node("sum", f"÷{float(equation.invars[1].val):g}", read)
            case "concatenate" if len(read) > 1:
                node = Node("other", "concatenate", read)
            case "split":
                node = Node("other", "halve channels", read)
            case "logistic":
                node = Node("activation", "sigmoid", read)
            case _:
                node = read[0]  # reshapes, conversions
        nodes |= dict.fromkeys(equation.outvars, node)


def _ordered(ends: Sequence[Node]) -> list[Node]:
    """All nodes that these depend on, each after its inputs."""
    order: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in order:
            for before in node.inputs:
                visit(before)
            order[node] = None

    for node in ends:
        visit(node)
    return list(order)


def _shape(aval: Any) -> str:
    return "×".join(map(str, aval.shape[1:]))


# From a graph to a picture.

ROW, WIDTH, HEIGHT = 54, 158, 36  # pixels: the distance of rows, and the size of a box
GAP = 14  # between lanes


def svg(nodes: Sequence[Node], title: str) -> str:
    """The graph from top to bottom: longest path in one lane, other paths beside it."""
    rows: dict[Node, int] = {}
    for node in nodes:
        rows[node] = 1 + max((rows[before] for before in node.inputs), default=-1)
    bottom = max(rows.values())
    rows |= {node: bottom for node in nodes if node.kind == "output"}
    lanes, detours = _lanes(nodes, rows)
    wide = {lanes[node] for node in nodes if node.kind != "sum"}
    widths = [(WIDTH if lane in wide else 26) + GAP for lane in range(1 + max([*lanes.values(), *detours.values()]))]
    centres = [sum(widths[:lane]) + widths[lane] / 2 for lane in range(len(widths))]
    width, height = sum(widths), (bottom + 1) * ROW
    x = {node: centres[lane] for node, lane in lanes.items()}
    y = {node: (row + 0.5) * ROW for node, row in rows.items()}
    parts = []
    for node in nodes:
        for before in node.inputs:
            top, end = y[before] + _half(before), y[node] - _half(node) - 2
            path = f"M{x[before]:g} {top:g}"
            if rows[node] - rows[before] > 1:
                middle = centres[detours[before, node]]
                first, last = y[before] + ROW - HEIGHT / 2, y[node] - ROW + HEIGHT / 2
                path += f"C{x[before]:g} {top + 20:g} {middle:g} {first - 20:g} {middle:g} {first:g}V{last:g}"
                path += f"C{middle:g} {last + 20:g} {x[node]:g} {end - 20:g} {x[node]:g} {end:g}"
            else:
                path += f"C{x[before]:g} {top + 14:g} {x[node]:g} {end - 14:g} {x[node]:g} {end:g}"
            parts.append(f'<path d="{path}"/><path class="head" d="M{x[node] - 4:g} {end - 5:g}l4 7l4 -7z"/>')
    parts += [_drawn(node, x[node], y[node]) for node in nodes]
    head = f'<svg class="block" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}<title>{html.escape(title)}</title>{''.join(parts)}</svg>"


def _lanes(nodes: Sequence[Node], rows: dict[Node, int]) -> tuple[dict[Node, int], dict[tuple[Node, Node], int]]:
    """The column of every node, and of every edge that skips rows; paths are laid out from the longest on."""
    edges = [(before, node) for node in nodes for before in node.inputs]
    lanes: dict[Node, int] = {}
    detours: dict[tuple[Node, Node], int] = {}
    taken: dict[tuple[int, int], object] = {}  # (lane, row) → whose output passes there, or which path stands there

    def free(span: range, user: object) -> int:
        """The first lane with nothing in these rows; edges from one node may share theirs."""
        places = ([(lane, row) for row in span] for lane in itertools.count())
        found = next(each for each in places if all(taken.get(place, user) is user for place in each))
        taken.update(dict.fromkeys(found, user))
        return found[0][0]

    def longest(end: Node) -> list[Node]:
        before = [longest(node) for node in end.inputs if node not in lanes]
        return [*max(before, key=len, default=[]), end]

    while left := [node for node in nodes if node not in lanes]:
        path = max((longest(node) for node in left), key=len)
        lanes |= dict.fromkeys(path, free(range(rows[path[0]], rows[path[-1]] + 1), path))
    for before, node in edges:
        skipped = range(rows[before] + 1, rows[node])
        if len(skipped):
            detours[before, node] = free(skipped, before)

    def length(order: Sequence[int]) -> int:
        ways = [(lanes[a], detours.get((a, b), lanes[b]), lanes[b]) for a, b in edges]
        return sum(abs(order[a] - order[m]) + abs(order[m] - order[b]) for a, m, b in ways)

    count = 1 + max([*lanes.values(), *detours.values()])
    order = min(itertools.permutations(range(count)), key=length)
    return {n: order[lane] for n, lane in lanes.items()}, {e: order[lane] for e, lane in detours.items()}


def _half(node: Node) -> float:
    return {"sum": 14, "input": 9, "output": 9}.get(node.kind, HEIGHT / 2)


def _drawn(node: Node, x: float, y: float) -> str:
    label, name = html.escape(node.label), html.escape(node.name)
    if node.kind in ("input", "output"):
        return f'<text x="{x:g}" y="{y + 4:g}">{label}</text>'
    if node.kind == "sum":
        return f'<circle cx="{x:g}" cy="{y:g}" r="13"/><text x="{x:g}" y="{y + 4:g}">{label}</text>'
    size = f'width="{WIDTH}" height="{HEIGHT}" rx="6"'
    box = f'<rect class="{node.kind}" x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" {size}/>'
    if not name:
        return f'{box}<text x="{x:g}" y="{y + 4:g}">{label}</text>'
    return f'{box}<text x="{x:g}" y="{y - 2:g}">{label}</text><text class="name" x="{x:g}" y="{y + 12:g}">{name}</text>'


def page() -> str:
    """The gallery as MyST Markdown."""
    parts = [
        "# Gallery of networks",
        "Each figure is drawn from the Linen module itself, from top to bottom: its layers, with the names that they "
        "have in a checkpoint, and the operations between them. A dashed box is a place where an activation may stand "
        "and does not. Where the whole network is not shown, it repeats such blocks.",
    ]
    for name, figures in FIGURES.items():
        network = figures[0].network
        module = type(network).__module__
        what = " ".join((type(network).__doc__ or "").split("\n")[0].split())
        parts += [
            f"## {name}",
            f"{what} {{py:obj}}`{module}.{type(network).__name__}`",
            "```{raw} html",
            '<div class="blocks">',
        ]
        for figure in figures:
            module, inputs = blocks_of(figure.network, figure.images)[figure.block]
            drawing = svg(graph_of(module, inputs), f"{name}, {figure.caption}")
            where = f" <code>{figure.block}</code>" if figure.block else ""
            parts.append(f"<figure>{drawing}<figcaption>{html.escape(figure.caption)}{where}</figcaption></figure>")
        parts += ["</div>", "```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
