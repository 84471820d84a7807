"""Every network of the papers, in one table: counts by tracing, then what a network must do when it is trained."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from relujax.dropout import AlphaDropout, GaussianDropout
from relujax.errors import InputError
from relujax.layers import Activation, count_layers, count_parameters, count_sites
from relujax.models.alexnet import AlexNet
from relujax.models.deep_dense import DeepDense
from relujax.models.dfn_mr import DFNMR
from relujax.models.elu_net import ELUNet11, ELUNet18, ELUNetImageNet
from relujax.models.landscape import OutputLandscape
from relujax.models.lenet import LeNet
from relujax.models.mobilenet import MobileNet, MobileNetV2
from relujax.models.plain import Plain
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.models.resnet_elu import ResNetELU
from relujax.models.resnet_v1_keras import ResNetV1Keras
from relujax.models.senet import SENet
from relujax.models.shufflenet import ShuffleNet, ShuffleNetV2
from relujax.models.squeezenet import SqueezeNet
from relujax.placement import (
    BOTTLENECK_TYPE_1,
    BOTTLENECK_TYPE_2,
    BOTTLENECK_TYPE_3,
    DROP_FIRST,
    DROP_LAST,
    MIX_1,
    MIX_2,
    MIX_3,
    TWO_TO_ONE,
    TYPE_1,
    TYPE_2,
    TYPE_3,
)

# Compiling is most of the time here, running next to nothing.
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
CIFAR, MNIST = (2, 32, 32, 3), (2, 28, 28, 1)

# network, parameters for 10 and for 100 classes: the tables of the sources, or the sum over their layers.
PARAMETERS = [
    (Plain(26, 10), 366_938, 372_788),
    (Plain(38, 10), 561_370, 567_220),
    (Plain(110, 10), 1_727_962, 1_733_812),
    (Plain(164, 10), 2_602_906, 2_608_756),
    (ResNet(20, 10), 269_722, 275_572),
    (ResNet(32, 10), 464_154, 470_004),
    (ResNet(110, 10), 1_727_962, 1_733_812),
    (ResNet(20, 10, shortcut="projection"), 272_474, 278_324),
    (ResNet(26, 10, shortcut="projection"), 369_690, 375_540),
    (ResNet(38, 10, shortcut="projection"), 564_122, 569_972),
    (ResNet(110, 10, shortcut="projection"), 1_730_714, 1_736_564),
    (ResNet(20, 10, shortcut="projection_without_bn"), 272_282, 278_132),
    (PreActResNet(20, 10, shortcut="pad"), 269_722, 275_572),
    (PreActResNet(62, 10, shortcut="pad"), 950_234, 956_084),
    (PreActResNet(20, 10), 272_282, 278_132),
    (PreActResNet(62, 10), 952_794, 958_644),
    (PreActResNet(110, 10), 1_730_522, 1_736_372),
    (PreActResNet(164, 10), 2_605_466, 2_611_316),
    (PreActResNet(110, 10, block="bottleneck"), 1_146_842, 1_169_972),
    (PreActResNet(164, 10, block="bottleneck"), 1_703_258, 1_726_388),
    (DFNMR(26, 10), 349_402, 355_252),
    (DFNMR(38, 10), 543_834, 549_684),
    (DFNMR(110, 10), 1_710_426, 1_716_276),
    (DFNMR(164, 10), 2_636_122, 2_641_972),
    (ResNetELU(20, 10), 269_018, 274_868),
    (ResNetELU(32, 10), 463_002, 468_852),
    (ResNetELU(110, 10), 1_723_898, 1_729_748),
    (ELUNet11(10), 1_641_938, 1_669_028),
    (ELUNet18(10), 39_226_634, 39_330_404),
    (DeepDense(15, 10), 5_298_580, 5_298_580 + 90 * 501),
    (DeepDense(25, 10), 7_813_580, 7_813_580 + 90 * 501),
    (ResNetV1Keras(20, 10), 273_066, 278_916),
    (ResNetV1Keras(32, 10), 467_946, 473_796),
    (LeNet(10), 62_006, 69_656),
    (AlexNet(10), 2_472_266, 2_495_396),
    (MobileNet(10), 3_223_178, 3_315_428),
    (MobileNetV2(10), 2_369_380 - 90 * 1281, 2_369_380),  # published: 2.36M
    (SqueezeNet(10), 781_156 - 90 * 513, 781_156),  # published: 0.78M
    (ShuffleNet(10), 925_618, 1_012_108),
    (ShuffleNetV2(10), 1_360_896 - 90 * 1025, 1_360_896),  # published: 1.3M
    (SENet(18, 10), 11_389_726, 11_436_256),
    (SENet(34, 10), 21_648_014, 21_694_544),
    (SENet(18, 10, last_filters=512), 11_267_842, 11_314_012),
    (SENet(34, 10, last_filters=512), 21_451_830, 21_498_000),
]

# network, convolution and dense layers (shortcuts included), activation sites.
LAYERS_AND_SITES = [
    *((Plain(depth, 10), depth, depth - 1) for depth in (5, 38, 62, 84)),
    *((Plain(depth, 10, placement=TWO_TO_ONE), depth, sites) for depth, sites in ((38, 19), (62, 31), (84, 42))),
    (Plain(8, 10, placement=((False,), (True,), (True,))), 8, 5),
    (Plain(38, 10, activation="relu_plus_identity"), 38, 37),
    (Plain(38, 10, activation="identity"), 38, 0),
    (ResNet(20, 10), 20, 19),
    (ResNet(20, 10, shortcut="projection"), 22, 19),
    (ResNet(20, 10, placement=DROP_FIRST), 20, 10),
    (ResNet(20, 10, placement=DROP_LAST), 20, 10),
    *((PreActResNet(6 * n + 2, 10), 6 * n + 4, 6 * n + 1) for n in (3, 10, 18, 27)),
    *((PreActResNet(6 * n + 2, 10, placement=DROP_FIRST), 6 * n + 4, 3 * n + 1) for n in (3, 10, 18, 27)),
    (PreActResNet(20, 10, placement=DROP_LAST), 22, 10),
    (PreActResNet(110, 10, block="bottleneck"), 113, 109),
    *(
        (PreActResNet(9 * n + 2, 10, block="bottleneck", placement=placement), 9 * n + 5, 6 * n + 1)
        for n, placement in ((12, BOTTLENECK_TYPE_1), (12, BOTTLENECK_TYPE_2), (18, BOTTLENECK_TYPE_3))
    ),
    # Stem; four sites a block, the last block three: 6 · 4 − 1 + 1 at depth 26, 27 · 4 at depth 110.
    (DFNMR(26, 10), 30, 24),
    (DFNMR(110, 10), 114, 108),
    (DFNMR(110, 10, placement=TYPE_1), 114, 108 - 26),
    (DFNMR(110, 10, placement=TYPE_2), 114, 108 - 27),
    (DFNMR(110, 10, placement=TYPE_3), 114, 108 - 26 - 27),
    (DFNMR(110, 10, placement=MIX_1), 114, 108 - 9 - 9 - 9 - 8),  # the last block is of type 3
    (DFNMR(110, 10, placement=MIX_2), 114, 108 - 9 - 9 - 9 - 8),
    (DFNMR(110, 10, placement=MIX_3), 114, 108 - 9 - 9 - 9 - 9),
    (ResNetELU(20, 10, block="conv-elu-conv-elu"), 20, 1 + 18 + 1),
    (ResNetELU(20, 10, block="elu-conv-elu-conv"), 20, 18 + 1),
    (ResNetELU(20, 10, block="conv-elu-conv-bn-elu"), 20, 1 + 18),
    (ResNetELU(20, 10), 20, 1 + 9 + 1),
    (ResNetELU(110, 10), 110, 1 + 54 + 1),
    (ELUNet11(100), 11, 10),
    (ELUNet18(100), 19, 18),
    (ELUNetImageNet(1000), 15, 14),
    *((DeepDense(15, 10, noise=noise), 15, 14) for noise in ("dropout", "gaussian", "alpha")),
    (DeepDense(25, 10), 25, 24),
    (ResNetV1Keras(20, 10), 22, 19),
    (ResNetV1Keras(32, 10), 34, 31),
    (LeNet(10), 5, 4),
    (AlexNet(10), 6, 5),
    (MobileNet(10), 1 + 13 * 2 + 1, 1 + 13 * 2),
    (MobileNetV2(10), 1 + 17 * 3 + 1 + 1, 1 + 17 * 2 + 1),
    (SqueezeNet(10), 1 + 8 * 3 + 1, 1 + 8 * 3),
    (ShuffleNet(10), 1 + 16 * 3 + 1, 1 + 16 * 2),
    (ShuffleNetV2(10), 1 + 16 * 3 + 3 * 2 + 1 + 1, 16 * 2 + 3 + 1),
    # A block has two convolutions and the two dense layers of its gate; three blocks have a projection.
    (SENet(18, 10), 1 + 8 * 4 + 3 + 1, 1 + 8 * 4),
    (SENet(34, 10), 1 + 16 * 4 + 3 + 1, 1 + 16 * 4),
]

# One shallow network of each family and block, and the shape of small images that it takes.
SMALL = (4, 8, 8, 3)
TRAINED = [
    (Plain(8, 10, placement=TWO_TO_ONE), SMALL),
    (ResNet(8, 10), SMALL),
    (ResNet(8, 10, placement=DROP_FIRST, shortcut="projection", batch_norm="with_activation"), SMALL),
    (PreActResNet(8, 10, batch_norm="with_activation", placement=DROP_FIRST), SMALL),
    (PreActResNet(11, 10, block="bottleneck", placement=BOTTLENECK_TYPE_2), SMALL),
    (DFNMR(14, 10, placement=MIX_1), SMALL),
    *((ResNetELU(8, 10, block=block), SMALL) for block in ("elu-conv-elu-conv", "conv-elu-conv-bn")),
    (ELUNet11(10, batch_norm=True), SMALL),
    *((DeepDense(5, 10, noise=noise), (4, 12, 12, 1)) for noise in ("gaussian", "alpha")),
    (ResNetV1Keras(8, 10), SMALL),
    (LeNet(10), (4, 16, 16, 3)),
    (AlexNet(10), SMALL),
    (MobileNet(10), SMALL),
    (MobileNetV2(10), SMALL),
    (SqueezeNet(10), SMALL),
    (ShuffleNet(10), SMALL),
    (ShuffleNetV2(10), SMALL),
    (SENet(18, 10), SMALL),
]


def named(rows, slow=()):
    return pytest.mark.parametrize(
        ", ".join(("model", "first", "second")[: len(rows[0])]),
        [pytest.param(*row, marks=pytest.mark.slow) if isinstance(row[0], slow) else row for row in rows],
        ids=[f"{type(row[0]).__name__}-{index}" for index, row in enumerate(rows)],
    )


@named(PARAMETERS)
def test_parameter_count_matches_the_paper(model, first, second):
    shape = images_of(model)
    assert count_parameters(model, shape) == first
    assert count_parameters(model.clone(num_classes=100), shape) == second


@named(LAYERS_AND_SITES)
def test_layers_and_activation_sites_match_the_paper(model, first, second):
    shape = images_of(model)
    assert (count_layers(model, shape), count_sites(model, shape)) == (first, second)


SLOW = (ELUNet11, MobileNet, MobileNetV2, SENet, ShuffleNet, ShuffleNetV2, SqueezeNet)  # 15 to 40 s each to compile


@named(TRAINED, slow=SLOW)
def test_a_first_step_in_train_and_eval_mode(model, first):
    """One program for it all: two seeds under vmap, traced once; finite gradients, of every parameter."""
    images = jax.random.normal(jax.random.key(0), first)
    labels = jnp.arange(len(images)) % 10
    chex.clear_trace_counter()

    @partial(jax.jit, compiler_options=COMPILE_FAST)
    @jax.vmap
    @chex.assert_max_traces(1)
    def first_step(seed, images):
        key = jax.random.key(seed)
        variables = model.init(key, images, train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})

        def mean_loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            trained, updates = model.apply(
                variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            evaluated = model.apply(variables, images, train=False)
            losses = optax.softmax_cross_entropy_with_integer_labels
            # In train mode a bias in front of BatchNorm receives nothing but rounding; in eval mode it does.
            loss = losses(trained, labels).mean() + losses(evaluated, labels).mean()
            return loss, (trained, evaluated, updates)

        gradients, outputs = jax.grad(mean_loss, has_aux=True)(params)
        return params, gradients, *outputs

    two = jnp.stack([images, images])
    params, gradients, trained, evaluated, updates = first_step(jnp.arange(2), two)
    first_step(jnp.arange(2) + 1, two)
    assert trained.shape == evaluated.shape == (2, len(images), 10) and trained.dtype == evaluated.dtype == jnp.float32
    chex.assert_tree_all_finite((gradients, trained, evaluated))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.any(gradient != 0), f"no gradient at {jax.tree_util.keystr(path)}"
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 2]
    assert all(jnp.any(kernel[0] != kernel[1]) for kernel in kernels)
    # Train and eval mode differ exactly where there is BatchNorm or dropout.
    normalized, dropped = (
        has(model, first, nn.BatchNorm),
        has(model, first, nn.Dropout | GaussianDropout | AlphaDropout),
    )
    assert bool(jnp.any(trained != evaluated)) == (normalized or dropped)
    assert bool(jax.tree.leaves(updates)) == normalized


@named(TRAINED)
def test_bf16_computes_in_bf16_with_float32_parameters_statistics_and_logits(model, first):
    model, computed = model.clone(dtype=jnp.bfloat16), {}

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense | Activation):
            computed["/".join(context.module.path)] = out.dtype
        return out

    def both(images):
        variables = model.init(jax.random.key(0), images, train=False)
        return variables, model.apply(variables, images, train=False)

    with nn.intercept_methods(note):
        variables, logits = jax.eval_shape(both, jax.ShapeDtypeStruct(first, jnp.float32))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert set(computed.values()) == {jnp.dtype(jnp.bfloat16)}


@named(TRAINED, slow=SLOW)
def test_any_activation_and_any_even_size(model, first):
    """A name, a function and a module with parameters of its own; wide, high and many-channelled images."""
    sites = count_sites(model, first)
    for activation in ("tanhexp", nn.tanh):
        assert count_sites(model.clone(activation=activation), first) == sites
    extra = count_parameters(model.clone(activation="prelu"), first) - count_parameters(model, first)
    assert extra >= sites
    if images_of(model) == CIFAR:
        for shape in ((1, 18, 22, 1), (3, 40, 16, 5)) if isinstance(model, LeNet) else ((1, 10, 18, 1), (3, 40, 8, 5)):
            traced = jax.eval_shape(lambda images: forward(model, images), jax.ShapeDtypeStruct(shape, jnp.float32))
            assert traced.shape == (shape[0], 10)


@pytest.mark.parametrize(
    "model, message",
    [
        (Plain(4, 10), "5 or more.*got 4"),
        (ResNet(21, 10), r"ResNet depth must be 6n \+ 2, near yours 20 or 26; got 21"),
        (ResNet(1, 10), "8 or 14; got 1"),
        (PreActResNet(110, 10, block="bottleneckk"), "unknown block 'bottleneckk': did you mean 'bottleneck'"),
        (PreActResNet(62, 10, block="bottleneck"), r"9n \+ 2, near yours 56 or 65; got 62"),
        (PreActResNet(20, 10, placement=((True, False, True),)), r"2 places.*1 or 2 flags; got \(True, False, True\)"),
        (PreActResNet(20, 10, placement=()), "slots of one block"),
        (DFNMR(13, 10), "14 or more; got 13"),
        (ResNetELU(20, 10, block="conv-elu"), "unknown block 'conv-elu': did you mean 'conv-elu-conv-bn'"),
        (ResNet(20, 10, shortcut="padding"), "unknown shortcut 'padding': did you mean 'pad'"),
        (SENet(50, 10), "18 or 34; got 50"),
        (ELUNet11(10, dropout=(0.1, 0.2)), "drop"),
        (DeepDense(3, 10), "got 3"),
        (DeepDense(15, 10, noise="alfa"), "unknown noise 'alfa': did you mean 'alpha'"),
        (ResNetV1Keras(21, 10), "got 21"),
        (ResNet(20, 10, activation="rellu"), "unknown activation 'rellu': did you mean 'relu'"),
    ],
)
def test_a_wrong_setting_is_refused_with_value_and_way_out(model, message):
    with pytest.raises(InputError, match=message):
        count_parameters(model, CIFAR)


@pytest.mark.parametrize(
    "images, message",
    [
        (jnp.zeros((32, 32, 3)), r"shape \(N, H, W, C\).*got \(32, 32, 3\)"),
        (jnp.zeros((1, 32, 32, 3), jnp.uint8), "normalised floats.*got uint8"),
        (jnp.zeros((1, 4, 32, 3)), "at least 8×8; got 4×32"),
    ],
)
def test_input_that_is_no_image_is_refused(images, message):
    with pytest.raises(InputError, match=message):
        ResNet(8, 10).init(jax.random.key(0), images, train=False)


def test_dropping_relu_and_batch_norm_together_makes_two_convolutions_one():
    """Equation 6: W₂ * (W₁ * x) is one 5×5 convolution; with its BatchNorm (equation 5) or ReLU (4) it is not."""
    key1, key2, image_key = jax.random.split(jax.random.key(0), 3)
    with jax.enable_x64(True):
        x = jax.random.normal(image_key, (2, 12, 12, 16), jnp.float64)
        w1, w2 = (jax.random.normal(key, (3, 3, 16, 16), jnp.float64) for key in (key1, key2))
        # Kernel composition: the response to a delta, as a correlation.
        w = np.zeros((5, 5, 16, 16))
        for i, j in np.ndindex(3, 3):
            w[i : i + 3, j : j + 3] += np.einsum("hwio,op->hwip", w1, w2[i, j])
        block = residual_branch(placement=DROP_FIRST, batch_norm="with_activation")
        params = {"conv1": {"kernel": w1}, "conv2": {"kernel": w2}}
        y = block(params, x)
        one = jax.lax.conv_general_dilated(x, jnp.array(w), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        inner = (slice(None), slice(1, -1), slice(1, -1))  # at the border conv2 pads zeros that the 5×5 does not see
        np.testing.assert_allclose(y[inner], one[inner], rtol=1e-9, atol=1e-9)
        for kept in (
            residual_branch(placement=DROP_FIRST, batch_norm="always"),
            residual_branch(placement=((True, True),), batch_norm="with_activation"),
        ):
            assert not np.allclose(kept(params, x)[inner], one[inner], rtol=0.1, atol=0.1)


def residual_branch(placement, batch_norm):
    """BN⁻¹ of a ResNet block's residual branch: what enters bn2, as a function of the two kernels.

    BatchNorms that are there divide by 2.
    """
    from relujax.models.resnet import Block

    block = Block(16, 1, "relu", placement[0], "pad", batch_norm, "fan_in")

    def branch(params, x):
        variables = block.init(jax.random.key(0), x, train=False)
        stats = jax.tree.map(lambda leaf: jnp.full_like(leaf, 4.0), variables["batch_stats"])
        stats = {name: {**own, "mean": jnp.zeros_like(own["mean"])} for name, own in stats.items()}
        variables = {"batch_stats": stats, "params": variables["params"] | params}
        _, state = block.apply(variables, x, train=False, capture_intermediates=lambda m, _: m.name == "conv2")
        return state["intermediates"]["conv2"]["__call__"][0]

    return branch


def test_the_ensemble_unit_is_twice_a_leaky_relu():
    """Fig. 3a of "Training Better CNNs": ReLU(z) + z = 2 · LeakyReLU(z) with slope 0.5."""
    z = jnp.linspace(-3, 3, 101)
    np.testing.assert_allclose(Activation("relu_plus_identity").apply({}, z), 2 * jax.nn.leaky_relu(z, 0.5), rtol=1e-6)


def test_the_landscape_net_has_an_activation_after_every_layer():
    """2 – 64 – 32 – 16 – 1, section 3.2 of the TanhExp paper."""
    model, points = OutputLandscape("tanhexp"), (5, 2)
    assert count_parameters(model, points) == 2_817
    assert (count_layers(model, points), count_sites(model, points)) == (4, 4)


def images_of(model):
    return MNIST if isinstance(model, DeepDense) else CIFAR


def has(model, shape, kind):
    found = []

    def note(call, args, kwargs, context):
        found.append(isinstance(context.module, kind) and getattr(context.module, "rate", 1) > 0)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda images: forward(model, images), jax.ShapeDtypeStruct(shape, jnp.float32))
    return any(found)


def forward(model, images):
    return model.apply(model.init(jax.random.key(0), images, train=False), images, train=False)


@pytest.mark.parametrize("placement", ["DROP_FIRST", (False, True)])
def test_what_is_no_placement_is_refused_with_an_example(placement):
    with pytest.raises(InputError, match=r"e\.g\. \(\(False,\), \(True,\)\) for 2:1"):
        count_parameters(PreActResNet(20, 10, placement=placement), (1, 32, 32, 3))


def calls_of(model, shape):
    """{path: (module, shape of its input, shape of its output)} of every module, by tracing an evaluation."""
    found = {}

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            found["/".join(context.module.path)] = (
                context.module,
                jnp.shape(args[0]),
                jnp.shape(jax.tree.leaves(out)[0]),
            )
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(lambda images: forward(model, images), jax.ShapeDtypeStruct(shape, jnp.float32))
    return found


# Torch's defaults; MXNet's in the code of DFN-MR, which the plain networks follow; Keras'.
BATCH_NORMS = [
    (ResNet(8, 10, shortcut="projection"), 0.9, 1e-5),
    (PreActResNet(8, 10), 0.9, 1e-5),
    (ResNetELU(8, 10), 0.9, 1e-5),
    (ELUNet11(10, batch_norm=True), 0.9, 1e-5),
    (Plain(5, 10), 0.9, 2e-5),
    (DFNMR(14, 10), 0.9, 2e-5),
    (ResNetV1Keras(8, 10), 0.99, 1e-3),
    (DeepDense(5, 10), 0.99, 1e-3),
]


@named(BATCH_NORMS)
def test_batch_norm_has_the_constants_of_its_source(model, first, second):
    norms = [module for module, *_ in calls_of(model, images_of(model)).values() if isinstance(module, nn.BatchNorm)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(first, second)}


@pytest.mark.parametrize(
    "noise, before_the_dense_layers, in_them",
    [
        ("dropout", (nn.Dropout, 0.25), (nn.Dropout, 0.25)),
        ("gaussian", (GaussianDropout, 0.25), (GaussianDropout, 0.25)),
        ("alpha", (AlphaDropout, 0.2), (nn.Dropout, 0.25)),
    ],
)
def test_noise_has_the_rates_of_the_paper(noise, before_the_dense_layers, in_them):
    kinds = nn.Dropout | GaussianDropout | AlphaDropout
    calls = calls_of(DeepDense(5, 10, noise=noise), MNIST)
    found = {path: (type(module), module.rate) for path, (module, *_) in calls.items() if isinstance(module, kinds)}
    assert found == {"conv_dropout": before_the_dense_layers, "layer1/dropout": in_them, "layer2/dropout": in_them}


@pytest.mark.parametrize("model", [ELUNet11(10), ELUNet18(10)])
def test_the_elu_nets_pool_cifar_images_to_one_pixel_before_the_last_stack(model):
    calls = calls_of(model, CIFAR)
    sizes = [shape[1:3] for path, (_, shape, _) in calls.items() if path.startswith("stack") and "/" not in path]
    assert sizes[:6] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1)] and calls["head"][1][1:3] == (1, 1)


@pytest.mark.parametrize("model", [Plain(11, 10), ResNet(8, 10), PreActResNet(8, 10), DFNMR(14, 10), ResNetELU(8, 10)])
def test_each_stage_halves_the_image_in_its_first_block(model):
    blocks = [(path, out) for path, (_, _, out) in calls_of(model, CIFAR).items() if path.count("/") == 0]
    sizes = {path: [*out[1:3]] for path, out in blocks if path.startswith("stage") and len(out) == 4}
    assert all(size == [32 >> (int(path[5]) - 1)] * 2 for path, size in sizes.items()), sizes


@pytest.mark.parametrize(
    "block", ["conv-elu-conv-elu", "elu-conv-elu-conv", "conv-elu-conv-bn-elu", "conv-elu-conv-bn"]
)
def test_a_residual_block_with_elu_adds_to_its_raw_input(block):
    """With kernels of 0 nothing is added: every other pixel, channels of zeros; an ELU follows where it is named."""
    from relujax.models.resnet_elu import Block

    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    model = Block(5, 2, "elu", block)
    variables = model.init(jax.random.key(0), x, train=False)
    params = jax.tree.map(lambda leaf: 0 * leaf if leaf.ndim == 4 else leaf, variables["params"])
    expected = np.concatenate([x[:, ::2, ::2], np.zeros((2, 3, 3, 2))], axis=-1)
    if block == "conv-elu-conv-bn-elu":
        expected = np.where(expected > 0, expected, np.expm1(np.minimum(expected, 0)))
    np.testing.assert_allclose(model.apply({**variables, "params": params}, x, train=False), expected, atol=1e-6)


def test_keras_pads_an_even_image_on_the_right_and_at_the_bottom():
    """Sums of 3×3 pixels from every other one on."""
    from relujax.models.resnet_v1_keras import Block

    x = np.random.default_rng(0).normal(size=(1, 6, 6, 1)).astype(np.float32)
    block = Block(1, 2, "relu")
    variables = block.init(jax.random.key(0), x, train=False)
    params = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if leaf.ndim == 4 else leaf, variables["params"])
    _, state = block.apply({**variables, "params": params}, x, train=False, capture_intermediates=True)
    padded = np.pad(x[0, :, :, 0], ((0, 1), (0, 1)))
    expected = [[padded[i : i + 3, j : j + 3].sum() for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_allclose(state["intermediates"]["conv1"]["__call__"][0][0, :, :, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "model, path, variance",
    [
        (ResNet(8, 10), "stage2_block1/conv1", 2 / (9 * 16)),
        (ResNet(8, 10, he="fan_out"), "stage2_block1/conv1", 2 / (9 * 32)),
        (ResNet(8, 10, he="fan_out"), "stem_conv", 2 / (9 * 16)),
        (ResNetELU(8, 10), "stage2_block1/conv1", 2 / (9 * 32)),
        (ResNetELU(8, 10), "stage2_block1/conv2", 2 / (9 * 32)),
        (PreActResNet(8, 10), "stage2_block1/conv1", 2 / (9 * 16)),
        (Plain(5, 10), "stage3_layer1/conv", 2 / (9 * 32)),
        (DFNMR(14, 10), "stage3_block1/branch_a/conv1", 2 / (9 * 32)),
        (ELUNet11(10), "stack2/conv1", 2 / 192),
        (ResNetV1Keras(8, 10), "stage3_block1/conv1", 2 / (9 * 32)),
        (DeepDense(5, 10), "layer2/dense", 2 / (500 + 500)),
        (AlexNet(10), "conv2", 1 / (3 * 25 * 64)),
        (LeNet(10), "dense3", 1 / (3 * 400)),
    ],
)
def test_initial_weights_have_the_variance_of_the_source(model, path, variance):
    """Drawn without what the network computes; a sample of thousands is within a few percent."""

    @jax.jit
    def kernel(key):
        params = model.init(key, jnp.zeros(images_of(model)), train=False)["params"]
        for name in path.split("/"):
            params = params[name]
        return params["kernel"]

    np.testing.assert_allclose(np.var(kernel(jax.random.key(0))), variance, rtol=0.15)


def test_a_spatial_pyramid_takes_the_largest_of_bins_that_leave_no_pixel_out():
    from relujax.models.elu_net import bins, spatial_pyramid_pool

    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    halves, quarters = (x.reshape(2, n, 8 // n, n, 12 // n, 3).max(axis=(2, 4)).reshape(2, -1) for n in (2, 4))
    expected = np.concatenate([quarters, halves, x.max(axis=(1, 2))], axis=-1)
    np.testing.assert_array_equal(spatial_pyramid_pool(jnp.array(x)), expected)
    for size in range(1, 20):
        covered = [set(range(size)[part]) for part in bins(size, 4)]
        assert all(covered) and set().union(*covered) == set(range(size))
