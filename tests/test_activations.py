"""Activations against mpmath: value, slope and curvature in four dtypes, limits, memory, transformations."""

import bisect
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from relujax.activations import ACTIVATIONS, PReLU, RReLU, SReLU, Swish, celu, elu, get_activation, leaky_relu
from relujax.errors import InputError

mpmath.mp.dps = 60
mpf = mpmath.mpf
SELU_SCALE = mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mpf("1.6732632423543772848170429916717")

# name → (kinks, formula left of the first kink, …, formula right of the last)
REFERENCE = {
    "identity": ((), lambda x: x),
    "relu": ((0,), lambda x: 0 * x, lambda x: x),
    "leaky_relu": ((0,), lambda x: x / 100, lambda x: x),
    "relu6": ((0, 6), lambda x: 0 * x, lambda x: x, lambda x: 6 + 0 * x),
    "shifted_relu": ((-1,), lambda x: -1 + 0 * x, lambda x: x),
    "relu_plus_identity": ((0,), lambda x: x, lambda x: 2 * x),
    "tanh": ((), mpmath.tanh),
    "sigmoid": ((), lambda x: 1 / (1 + mpmath.exp(-x))),
    "softplus": ((), lambda x: mpmath.log1p(mpmath.exp(x))),
    "elu": ((0,), mpmath.expm1, lambda x: x),
    "selu": ((0,), lambda x: SELU_SCALE * SELU_ALPHA * mpmath.expm1(x), lambda x: SELU_SCALE * x),
    "celu": ((0,), mpmath.expm1, lambda x: x),
    "silu": ((), lambda x: x / (1 + mpmath.exp(-x))),
    "gelu": ((), lambda x: x * mpmath.ncdf(x)),
    "gelu_tanh": (
        (),
        lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpf("0.044715") * x**3))),
    ),
    "mish": ((), lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))),
    "tanhexp": ((), lambda x: x * mpmath.tanh(mpmath.exp(x))),
}
NAMES = list(REFERENCE)
FUNCTIONS = {name: f for name, f in ACTIVATIONS.items() if not isinstance(f, type)}
MODULES = {name: f for name, f in ACTIVATIONS.items() if isinstance(f, type)}
SMOOTH = [
    "tanh",
    "sigmoid",
    "softplus",
    "elu",
    "selu",
    "celu",
    "silu",
    "gelu",
    "gelu_tanh",
    "mish",
    "tanhexp",
]
GATED = ["silu", "gelu", "gelu_tanh", "mish", "tanhexp"]
DTYPES = ["float64", "float32", "float16", "bfloat16"]

# Bounds on |error| / (eps · max(1, |truth|)) for value, slope and curvature. A gate g near 1 is rounded to
# eps, so the derivatives, with terms like x · e^x · (1 − g), carry eps times the factor in front.
ULPS = dict.fromkeys(NAMES, (4, 24, 24)) | {
    "gelu_tanh": (4, 48, 512),
    "mish": (4, 48, 512),
    "tanhexp": (4, 48, 2000),
}
HALF_ULPS = (1, 2, 3)  # one rounding of a float32 result; tanh and sigmoid differentiate their rounded output

POINTS = np.concatenate([np.arange(-24, 24.5, 0.75), [0.0, -0.0, 1e-30, -1e-30, 1, -1, 20, -20, 100, -100, 1e4, -1e4]])


@functools.cache
def truth(name, order, x):
    """The derivative of that order at x (a float), or nan at a kink, where it is a convention."""
    kinks, *formulas = REFERENCE[name]
    if order and x in kinks:
        return np.nan
    formula = formulas[bisect.bisect_left(kinks, x)]
    return float(mpmath.diff(formula, mpf(x), order) if order else formula(mpf(x)))


def derivatives(f):
    """x ↦ value, slope and curvature, by reverse mode."""

    def slope(x):
        return jax.grad(lambda x: f(x).sum())(x)

    return lambda x: (f(x), slope(x), jax.grad(lambda x: slope(x).sum())(x))


@functools.cache
def compiled():
    return jax.jit(lambda x: {name: derivatives(ACTIVATIONS[name])(x) for name in NAMES})


@functools.cache
def measured(dtype):
    """The points and ±∞ and nan as rounded to dtype, and name → value, slope, curvature there."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.append(POINTS, [-np.inf, np.inf, np.nan]), dtype)
        results = compiled()(x)
        return np.asarray(x, np.float64), jax.tree.map(np.asarray, results)


def assert_close(name, order, x, got, eps, ulps):
    want = np.array([truth(name, order, float(v)) for v in x])
    known = ~np.isnan(want)
    error = np.abs(np.asarray(got, np.float64) - want)[known] / (eps * np.maximum(1, np.abs(want[known])))
    wrong = ~(error <= ulps)  # nan is wrong, too
    assert not wrong.any(), (name, order, x[known][wrong], error[wrong])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_value_slope_and_curvature_agree_with_mpmath(name, dtype):
    x, results = measured(dtype)
    bounds = ULPS[name] if dtype in ("float32", "float64") else HALF_ULPS
    for order, (got, ulps) in enumerate(zip(results[name], bounds, strict=True)):
        assert got.dtype == dtype
        assert_close(name, order, x[:-3], got[:-3], float(jnp.finfo(dtype).eps), ulps)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(-40, 40, width=32), min_size=8, max_size=8))
def test_any_finite_input_gives_what_mpmath_gives(points):
    x = jnp.array(points, jnp.float32)
    results = compiled()(x)
    for name in NAMES:
        for order in range(3):
            exact = np.asarray(x, np.float64)
            assert_close(name, order, exact, results[name][order], 2.0**-23, ULPS[name][order])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_finite_input_gives_finite_output_and_bounded_slopes(points):
    largest = float(np.finfo(np.float32).max) / 2  # relu_plus_identity doubles
    x = jnp.clip(jnp.array(points, jnp.float32), -largest, largest / 1.06)
    for name, (value, slope, curvature) in compiled()(x).items():
        assert np.isfinite(value).all(), name
        assert (np.abs(slope) <= 2).all(), name
        assert (np.abs(curvature) <= 2).all(), name


@pytest.mark.parametrize("name", GATED)
def test_negative_tail_keeps_its_relative_precision(name):
    x = np.linspace(-8, -1, 57, dtype=np.float32)
    want = np.array([truth(name, 0, float(v)) for v in x])
    np.testing.assert_allclose(np.asarray(FUNCTIONS[name](x), np.float64), want, rtol=128 * 2.0**-23)


LIMITS = {  # (value, slope) at −∞ and at +∞; every curvature is 0
    "identity": ((-np.inf, 1), (np.inf, 1)),
    "relu": ((0, 0), (np.inf, 1)),
    "leaky_relu": ((-np.inf, 0.01), (np.inf, 1)),
    "relu6": ((0, 0), (6, 0)),
    "shifted_relu": ((-1, 0), (np.inf, 1)),
    "relu_plus_identity": ((-np.inf, 1), (np.inf, 2)),
    "tanh": ((-1, 0), (1, 0)),
    "sigmoid": ((0, 0), (1, 0)),
    "selu": ((float(-SELU_SCALE * SELU_ALPHA), 0), (np.inf, float(SELU_SCALE))),
    "elu": ((-1, 0), (np.inf, 1)),
    "celu": ((-1, 0), (np.inf, 1)),
} | dict.fromkeys(["softplus", *GATED], ((0, 0), (np.inf, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_at_infinity_are_exact_and_nan_stays_nan(dtype):
    _, results = measured(dtype)
    eps = float(jnp.finfo(dtype).eps)
    for name in NAMES:
        value, slope, curvature = (np.asarray(r[-3:], np.float64) for r in results[name])
        np.testing.assert_allclose(value[:2], [end[0] for end in LIMITS[name]], rtol=eps, err_msg=name)
        np.testing.assert_allclose(slope[:2], [end[1] for end in LIMITS[name]], rtol=eps, err_msg=name)
        np.testing.assert_array_equal(curvature[:2], 0, err_msg=name)
        assert np.isnan(value[2]), name


KINKS = [("relu", 0, 0), ("leaky_relu", 0, 1), ("relu6", 0, 0), ("relu6", 6, 0), ("shifted_relu", -1, 0)]
KINKS += [("relu_plus_identity", 0, 1), ("elu", 0, 1), ("celu", 0, 1)]


@pytest.mark.parametrize("name, kink, slope", KINKS)
def test_slope_at_a_kink_follows_the_stated_convention(name, kink, slope):
    assert jax.grad(FUNCTIONS[name])(float(kink)) == slope


# paper-details.md, section 5.1
@pytest.mark.parametrize(
    "name, minimum, place",
    [("tanhexp", -0.35329, -1.0789), ("mish", -0.30884, -1.1924), ("silu", -0.27846, -1.2785)],
)
def test_minimum_lies_where_analysis_puts_it(name, minimum, place):
    with jax.enable_x64(True):
        x = np.linspace(-3, 1, 400_001)
        value = np.asarray(FUNCTIONS[name](x))
    assert value.dtype == np.float64
    assert value.min() == pytest.approx(minimum, abs=5e-6)
    assert x[value.argmin()] == pytest.approx(place, abs=6e-5)


@pytest.mark.parametrize("name, slope", [("tanhexp", np.tanh(1)), ("mish", 0.6), ("silu", 0.5)])
def test_slope_at_zero(name, slope):
    assert jax.grad(FUNCTIONS[name])(0.0) == pytest.approx(slope, rel=3e-7)


def test_constants_change_the_function_by_keyword_and_by_position():
    x = np.linspace(-4, 4, 33)
    want = np.where(x > 0, x, 2 * np.expm1(x)).astype(np.float32)
    np.testing.assert_allclose(elu(jnp.float32(x), alpha=2.0), want, rtol=1e-6)
    np.testing.assert_allclose(elu(jnp.float32(x), 2.0), want, rtol=1e-6)
    want = np.where(x > 0, x, 2 * np.expm1(x / 2)).astype(np.float32)
    np.testing.assert_allclose(celu(jnp.float32(x), alpha=2.0), want, rtol=1e-6)
    want = np.where(x > 0, x, 0.1 * x).astype(np.float32)
    np.testing.assert_allclose(leaky_relu(jnp.float32(x), negative_slope=0.1), want, rtol=1e-6)


def test_crelu_doubles_the_channels_with_both_signs():
    result = FUNCTIONS["crelu"](jnp.array([[1.0, -2.0]], jnp.bfloat16))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(result, np.float32), [[1, 0, 0, 2]])


def test_integers_are_not_truncated():
    assert FUNCTIONS["silu"](jnp.array(1)) == pytest.approx(1 / (1 + np.exp(-1)))


# ----- memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMOOTH)
def test_backward_pass_keeps_one_array(name, dtype):
    x = jnp.linspace(-3, 3, 64, dtype=dtype)
    output, pullback = jax.vjp(FUNCTIONS[name], x)
    (kept,) = jax.tree.leaves(pullback)
    np.testing.assert_array_equal(kept, output if name in ("tanh", "sigmoid", "elu", "celu") else x)


@functools.cache
def network_memory(f):
    """Bytes of temporaries in the gradient of a dense net with six nonlinearities, as compiled."""

    def loss(weights, x):
        for weight in weights:
            x = f(x @ weight)
        return x.sum()

    weights = [jax.ShapeDtypeStruct((32, 32), jnp.float32)] * 6
    x = jax.ShapeDtypeStruct((2048, 32), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(weights, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", SMOOTH)
def test_compiled_network_needs_no_more_memory_than_with_relu(name):
    assert network_memory(FUNCTIONS[name]) <= 1.05 * network_memory(jax.nn.relu)


def test_memory_measure_can_tell_a_function_that_keeps_its_intermediates():
    assert network_memory(jax.nn.mish) > 1.3 * network_memory(jax.nn.relu)


# ----- transformations


def test_forward_mode_vmap_and_scan_agree_with_reverse_mode():
    x = jnp.linspace(-3.1, 3.1, 16)

    @jax.jit
    def every_way(x):
        results = {}
        for name in NAMES:
            f = ACTIVATIONS[name]
            slope = jax.grad(f)
            forward = lambda x, f=f: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
            results[name] = {
                "reference": derivatives(f)(x)[1:],
                "vmap of reverse": (jax.vmap(slope)(x), jax.vmap(jax.grad(slope))(x)),
                "forward": (forward(x), jax.jvp(forward, (x,), (jnp.ones_like(x),))[1]),
                "forward over reverse": (forward(x), jax.vmap(jax.jacfwd(slope))(x)),
                "scan": jax.lax.scan(lambda c, x, slope=slope: (c, (slope(x), jax.grad(slope)(x))), 0, x)[1],
            }
        return results

    for name, ways in every_way(x).items():
        for way, got in ways.items():
            np.testing.assert_allclose(got, ways["reference"], atol=3e-6, err_msg=f"{name}: {way}")


def test_gradient_through_a_traced_constant():
    assert jax.jit(jax.grad(lambda alpha: elu(jnp.float32(-1), alpha)))(1.0) == pytest.approx(np.expm1(-1))


# ----- modules


def apply(module, x, train=False, **params):
    variables = {"params": {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}}
    return module.apply(variables, x, train=train, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_called_alike_and_keeps_shape_and_dtype(name, dtype):
    module = get_activation(name)
    train = inspect.signature(MODULES[name].__call__).parameters["train"]
    assert train.kind is train.KEYWORD_ONLY and train.default is train.empty
    x = jnp.linspace(-2, 2, 24, dtype=dtype).reshape(2, 4, 3)
    for train in (False, True):
        result, variables = module.init_with_output(jax.random.key(0), x, train=train)
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        assert np.isnan(module.apply(variables, x * np.nan, train=False)).all()


TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "name, value, slope_below",
    [
        ("prelu", lambda x: np.where(x >= 0, x, 0.25 * x), 0.25),
        ("srelu", lambda x: np.where(x >= 0, x, 0.2 * x), 0.2),
        ("rrelu", lambda x: np.where(x >= 0, x, 11 / 48 * x), 11 / 48),
        ("trainable_swish", lambda x: np.where(np.isinf(x), np.maximum(x, 0), x / (1 + np.exp(-x))), 0),
    ],
)
def test_modules_have_their_limits_and_slopes_far_out(name, value, slope_below, dtype):
    module, points = get_activation(name), np.append(POINTS, [-np.inf, np.inf])
    x = jnp.asarray(points, dtype)[:, None]
    variables = module.init(jax.random.key(0), x, train=False)
    with np.errstate(all="ignore"):
        expected = value(np.asarray(x, np.float64))
    got = module.apply(variables, x, train=False)
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    slope = jax.grad(lambda x: module.apply(variables, x, train=False).astype(jnp.float32).sum())(x)[:, 0]
    assert np.isfinite(np.asarray(slope, np.float64)).all()
    far = np.abs(points) > 1000
    limits = np.where(points[far] > 0, 1, slope_below)
    np.testing.assert_allclose(np.asarray(slope, np.float64)[far], limits, rtol=TOLERANCE[dtype])


def test_prelu_has_one_slope_per_channel_that_starts_at_a_quarter():
    x = np.array([[-1.0, -2.0, 3.0], [4.0, 0.0, -1.0]], np.float32)
    params = PReLU().init(jax.random.key(0), x, train=True)["params"]
    np.testing.assert_array_equal(params["negative_slope"], [0.25] * 3)
    got = apply(PReLU(), x, negative_slope=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(got, [[-0.1, -0.4, 3], [4, 0, -0.3]], rtol=1e-6)


def test_srelu_is_three_lines_joined_at_the_thresholds():
    params = SReLU().init(jax.random.key(0), jnp.zeros((2, 5)), train=True)["params"]
    assert {k: v.shape for k, v in params.items()} == dict.fromkeys(
        ["lower_threshold", "lower_slope", "upper_threshold", "upper_slope"], (5,)
    )
    x = np.array([-3, -1, 0.5, 2, 4], np.float32)[:, None]
    got = apply(SReLU(), x, lower_threshold=[-1], lower_slope=[0.5], upper_threshold=[2], upper_slope=[0.25])
    np.testing.assert_allclose(got[:, 0], [-2, -1, 0.5, 2, 2.5])


def test_swish_learns_beta_and_keeps_its_input_only():
    x = np.linspace(-5, 5, 21, dtype=np.float32)
    assert Swish().init(jax.random.key(0), x, train=True)["params"] == {"beta": 1.0}
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(apply(Swish(), x, beta=1.5), x64 / (1 + np.exp(-1.5 * x64)), rtol=2e-6)
    s = 1 / (1 + np.exp(-1.5 * x64))
    slope = jax.grad(lambda beta: apply(Swish(), x, beta=beta).sum())(1.5)
    assert slope == pytest.approx((x64**2 * s * (1 - s)).sum(), rel=1e-5)
    kept = jax.tree.leaves(jax.vjp(lambda x, beta: apply(Swish(), x, beta=beta), x, jnp.float32(1.5))[1])
    assert sum(leaf.nbytes for leaf in kept) <= x.nbytes + 4


def test_rrelu_draws_each_slope_in_training_and_uses_the_mean_in_evaluation():
    x = -jnp.ones((200, 50))
    slopes = -apply(RReLU(), x, train=True)
    assert 1 / 8 <= slopes.min() < 0.13 and 0.33 < slopes.max() <= 1 / 3
    assert len(np.unique(slopes)) > 9_000
    assert slopes.mean() == pytest.approx(11 / 48, abs=4 * (1 / 3 - 1 / 8) / np.sqrt(12 * x.size))
    np.testing.assert_allclose(RReLU().apply({}, x, train=False), -11 / 48, rtol=1e-6)  # needs no key
    np.testing.assert_array_equal(apply(RReLU(), -x, train=True), -x)
    other = RReLU().apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.array_equal(-slopes, other)


# ----- the table


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_carries_its_registered_name_and_a_formula(name):
    f = FUNCTIONS[name]
    assert f.__name__ == {"swish": "silu"}.get(name, name)
    assert f.__doc__ and "\n" not in f.__doc__
    assert name in REFERENCE or name in ("crelu", "swish")
    assert get_activation(name) is f is pickle.loads(pickle.dumps(f))


def test_function_or_module_passes_through():
    half = functools.partial(leaky_relu, negative_slope=0.5)
    module = PReLU()
    assert get_activation(half) is half
    assert get_activation(jnp.sin) is jnp.sin
    assert get_activation(module) is module
    assert get_activation(PReLU) == get_activation("prelu") == PReLU()


def test_named_module_belongs_to_nobody_yet():
    class Parent(nn.Module):
        @nn.compact
        def __call__(self, x):
            assert get_activation("prelu").parent is None
            return x

    Parent().init(jax.random.key(0), jnp.ones(3))


def test_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown activation 'tanhex': did you mean 'tanhexp'\?.*relu6"):
        get_activation("tanhex")


@pytest.mark.parametrize("wrong", [None, 3, ["relu"]])
def test_what_is_no_activation_is_refused(wrong):
    with pytest.raises(InputError, match="a name, a function or a Linen module; got"):
        get_activation(wrong)


@pytest.mark.parametrize("typed, meant", [("ReLU", "relu"), ("GELU", "gelu"), ("Tanh", "tanh"), ("TanhExp", "tanhexp")])
def test_other_capitals_are_taken_for_the_name_itself(typed, meant):
    with pytest.raises(InputError, match=f"did you mean {meant!r}"):
        get_activation(typed)
