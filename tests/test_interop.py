import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import relujax.interop
from relujax.errors import InputError
from relujax.interop import from_torch, load_safetensors, save_safetensors, to_torch
from relujax.models.deep_dense import DeepDense
from relujax.models.mlp import MLP
from relujax.models.resnet_v1_keras import ResNetV1Keras

SMALL = (1, 12, 14, 3)


class Tiny(nn.Module):
    """A grouped convolution, then a dense layer on the flattened, oblong feature map."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(6, (2, 3), padding="VALID", feature_group_count=2, name="conv")(images)
        x = jnp.maximum(x, 0).reshape(len(images), -1)
        return nn.Dense(5, name="head")(nn.Dropout(0.5, deterministic=not train)(x))


class TwoAlike(nn.Module):
    """Two dense layers of the same shape."""

    @nn.compact
    def __call__(self, points, *, train):
        return nn.Dense(4, name="second")(nn.Dense(4, name="first")(points))


NETWORKS = [
    (ResNetV1Keras(depth=8, num_classes=10), SMALL),
    (DeepDense(depth=5, num_classes=10, activation="prelu"), SMALL),
    (DeepDense(depth=4, num_classes=10, dtype=jnp.bfloat16), SMALL),
    (MLP(depth=3, width=6, num_classes=10, activation="elu"), SMALL),
    (Tiny(), (1, 5, 7, 4)),
]


def random_variables(model, images_shape):
    """Variables with every element drawn, so that no two arrays are equal."""
    images = jax.ShapeDtypeStruct(images_shape, "float32")
    shapes = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.random(leaf.shape, dtype="float32") + 0.5, shapes)


def numbered(state_dict):
    """Prefixes as in torch.nn.Sequential: "0.weight", "0.bias", "1.weight", …, which say nothing about the layer."""
    parts = {key: key.rpartition(".") for key in state_dict}
    prefixes = list(dict.fromkeys(prefix for prefix, _, _ in parts.values()))
    return {f"{prefixes.index(prefix)}.{name}": state_dict[key] for key, (prefix, _, name) in parts.items()}


@pytest.mark.parametrize("rename", [dict, numbered], ids=["by path", "by order"])
@pytest.mark.parametrize("model, shape", NETWORKS)
def test_weights_to_torch_and_back_are_the_same(model, shape, rename):
    variables = random_variables(model, shape)
    back = from_torch(model, rename(to_torch(model, variables, shape)), shape)
    jax.tree.map(np.testing.assert_array_equal, variables, back)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {jnp.dtype("float32")}


def test_a_network_computes_what_its_torch_weights_say():
    shape = (3, 5, 7, 4)
    variables = random_variables(Tiny(), shape)
    weights = to_torch(Tiny(), variables, shape)
    images = np.random.default_rng(1).normal(size=shape).astype("float32")
    # PyTorch's layout and arithmetic: (N, C, H, W), weight (out, in / groups, h, w), flattened (C, H, W).
    x = images.transpose(0, 3, 1, 2)
    patches = np.lib.stride_tricks.sliding_window_view(x, (2, 3), axis=(2, 3))  # (N, C, H, W, h, w)
    kernel = weights["conv.weight"]
    halves = [np.einsum("nchwij,ocij->nohw", patches[:, 2 * g : 2 * g + 2], kernel[3 * g : 3 * g + 3]) for g in (0, 1)]
    maps = np.maximum(np.concatenate(halves, axis=1) + weights["conv.bias"][:, None, None], 0)
    expected = maps.reshape(3, -1) @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(Tiny().apply(variables, images, train=False), expected, rtol=1e-5, atol=1e-5)


def test_arrays_have_torchs_names_and_shapes():
    shape = (1, 10, 10, 3)
    model = DeepDense(depth=4, num_classes=10, activation="prelu")
    arrays = to_torch(model, random_variables(model, shape), shape)
    assert {name: array.shape for name, array in arrays.items() if name.startswith(("conv1", "layer1"))} == {
        "conv1.weight": (20, 3, 5, 5),
        "conv1.bias": (20,),
        "layer1.dense.weight": (500, 50),
        "layer1.dense.bias": (500,),
        "layer1.bn.weight": (500,),
        "layer1.bn.bias": (500,),
        "layer1.bn.running_mean": (500,),
        "layer1.bn.running_var": (500,),
        "layer1.act.own.weight": (500,),
    }
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays.values())


def test_torchs_batch_counter_is_ignored():
    model, shape = NETWORKS[0]
    arrays = to_torch(model, random_variables(model, shape), shape)
    counters = {"stem_bn.num_batches_tracked": np.int64(7)}
    jax.tree.map(
        np.testing.assert_array_equal, from_torch(model, arrays, shape), from_torch(model, counters | arrays, shape)
    )


def test_names_pair_layers_whose_order_differs():
    shape, names = (1, 4), {"b": "first", "a": "second"}
    variables = random_variables(TwoAlike(), shape)
    arrays = to_torch(TwoAlike(), variables, shape, names=names)
    assert list(arrays) == ["b.weight", "b.bias", "a.weight", "a.bias"]
    backwards = {key: arrays[key] for key in ("a.weight", "a.bias", "b.weight", "b.bias")}
    jax.tree.map(np.testing.assert_array_equal, variables, from_torch(TwoAlike(), backwards, shape, names=names))
    jax.tree.map(
        np.testing.assert_array_equal, variables, from_torch(TwoAlike(), backwards, shape, names={"b": "first"})
    )
    with pytest.raises(InputError, match=r"'b' with 'third'.*first, second"):
        from_torch(TwoAlike(), backwards, shape, names={"b": "third"})
    with pytest.raises(InputError, match=r"left to pair are 0.*the network's 1: second"):
        from_torch(TwoAlike(), backwards, shape, names={"a": "first", "b": "first"})


def test_arrays_sorted_by_name_are_not_paired_by_order():
    model, shape = NETWORKS[0]
    arrays = numbered(to_torch(model, random_variables(model, shape), shape))
    with pytest.raises(InputError, match="sorted by name"):
        from_torch(model, dict(sorted(arrays.items())), shape)


def test_what_does_not_fit_is_refused_with_both_names_and_shapes():
    model, shape = NETWORKS[0]
    arrays = numbered(to_torch(model, random_variables(model, shape), shape))
    wrong_shape = arrays | {"0.weight": np.ones((16, 1, 3, 3))}
    with pytest.raises(InputError, match=r"'0' has .*\(16, 1, 3, 3\).*'stem_conv' here needs .*\(16, 3, 3, 3\)"):
        from_torch(model, wrong_shape, shape)
    wrong_kind = arrays | {"0.weight": np.ones((16, 27))}
    with pytest.raises(InputError, match=r"'0' has .*\(16, 27\).*'stem_conv'"):
        from_torch(model, wrong_kind, shape)
    no_statistics = {key: value for key, value in arrays.items() if key != "1.running_var"}
    with pytest.raises(InputError, match=r"'1' has .*'stem_bn' here needs .*running_var"):
        from_torch(model, no_statistics, shape)
    with pytest.raises(InputError, match="left to pair are 1: extra, the network's 0"):
        from_torch(model, to_torch(model, random_variables(model, shape), shape) | {"extra.weight": np.ones(3)}, shape)
    with pytest.raises(InputError, match="left to pair are 1: , the network's"):
        from_torch(model, {"state_dict": arrays, "epoch": 3}, shape)


def test_variables_of_another_network_are_refused():
    model, shape = NETWORKS[0]
    variables = random_variables(model, shape)
    with pytest.raises(InputError, match=r"'params/head/kernel': .* \(64, 7\), .* \(64, 10\)"):
        to_torch(model.clone(num_classes=7), variables, shape)
    with pytest.raises(InputError, match=r"'batch_stats/stem_bn/mean': .* have nothing"):
        to_torch(model, {"params": variables["params"]}, shape)
    with pytest.raises(InputError, match=r"stage1_block2/.*': this network has nothing"):
        to_torch(model, random_variables(model.clone(depth=14), shape), shape)


def test_a_layer_that_torch_does_not_have_is_refused():
    model = MLP(depth=1, width=3, num_classes=2, activation="srelu")
    with pytest.raises(InputError, match=r"PyTorch has no layer for .*lower_slope"):
        to_torch(model, random_variables(model, SMALL), SMALL)


def test_a_dense_layer_whose_input_cannot_be_seen_is_refused():
    class Hidden(nn.Module):
        @nn.compact
        def __call__(self, points, *, train):
            return nn.remat(nn.Dense)(4, name="head")(points)

    with pytest.raises(InputError, match=r"params/head/kernel.*nn\.remat"):
        to_torch(Hidden(), random_variables(Hidden(), (1, 4)), (1, 4))


def test_weights_through_a_safetensors_file_are_the_same(tmp_path):
    pytest.importorskip("safetensors")
    model, shape = NETWORKS[1]
    variables = random_variables(model, shape)
    save_safetensors(tmp_path / "net.safetensors", to_torch(model, variables, shape))
    arrays = load_safetensors(tmp_path / "net.safetensors")
    jax.tree.map(np.testing.assert_array_equal, variables, from_torch(model, arrays, shape))


def test_a_truncated_or_missing_file_is_refused_in_one_line(tmp_path):
    pytest.importorskip("safetensors")
    whole = tmp_path / "whole.safetensors"
    save_safetensors(whole, {"head.weight": np.arange(100.0).reshape(10, 10).T})
    np.testing.assert_array_equal(load_safetensors(whole)["head.weight"], np.arange(100.0).reshape(10, 10).T)
    for size in (0, 4, 40, whole.stat().st_size - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:size])
        with pytest.raises(InputError, match=r"cut\.safetensors cannot be read as safetensors: [^\n]+$"):
            load_safetensors(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"none\.safetensors cannot be read"):
        load_safetensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "pytorch_model.bin", "net.pkl", "NET.PTH"])
def test_a_pickled_file_is_never_opened(name):
    with pytest.raises(InputError, match="convert to safetensors first"):
        load_safetensors(name)  # which does not exist


def test_torch_is_not_imported():
    tree = ast.parse(Path(relujax.interop.__file__).read_text())
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.split(".")[0] == "torch" or name.startswith("safetensors.torch")]
