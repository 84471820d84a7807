import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.data import Data, Flip, PadCrop, PerChannel, UnitRange, augment
from relujax.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_unit_range_maps_bytes_to_zero_and_one():
    scaled = UnitRange()(np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(scaled), [0, 0.2, 1], rtol=1e-7)


def test_per_channel_gives_mean_zero_and_std_one():
    flat = PIXELS.reshape(-1, 3).astype(np.float64)
    normalize = PerChannel(tuple(flat.mean(0).tolist()), tuple(flat.std(0).tolist()))
    result = np.asarray(jax.jit(normalize)(PIXELS)).reshape(-1, 3)
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: PerChannel((1.0, 2.0), (1.0,)), "one std for each mean"),
        (lambda: PerChannel((1.0,), (0.0,)), "positive"),
        (lambda: PerChannel((1.0,), (1.0,))(PIXELS), "3"),
        (lambda: PadCrop(-1), "-1"),
        (lambda: Flip(1.5), "1.5"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_data_is_a_value():
    make = lambda: Data(name="cifar10", normalize=UnitRange(), augment=(PadCrop(), Flip()), validation=5)  # noqa: E731
    assert make() == make() and hash(make()) == hash(make())


def test_pad_crop_reaches_every_window_and_no_other():
    image = jnp.arange(1, 10, dtype=jnp.uint8).reshape(3, 3, 1)
    crops = jax.vmap(PadCrop(1), in_axes=(0, None))(jax.random.split(jax.random.key(0), 200), image)
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
    windows = {padded[i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(3)}
    assert {crop.tobytes() for crop in np.asarray(crops)} == windows


def test_flip_mirrors_columns_half_of_the_time():
    image = jnp.asarray(PIXELS[0])
    flip = lambda probability: jax.vmap(Flip(probability), in_axes=(0, None))  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 400)
    np.testing.assert_array_equal(flip(0.0)(keys, image)[0], image)
    np.testing.assert_array_equal(flip(1.0)(keys, image)[0], image[:, ::-1])
    share = np.mean([np.array_equal(one, image[:, ::-1]) for one in np.asarray(flip(0.5)(keys, image))])
    assert 0.4 < share < 0.6


def test_augmentation_of_an_example_depends_on_its_own_key_only():
    data = Data(name="cifar10", normalize=UnitRange(), augment=(PadCrop(), Flip()))
    keys = jax.random.split(jax.random.key(2), len(PIXELS))
    together = jax.jit(lambda keys, images: augment(data, keys, images))(keys, data.normalize(PIXELS))
    alone = augment(data, keys[3:4], data.normalize(PIXELS[3:4]))
    assert together.shape == PIXELS.shape and together.dtype == jnp.float32
    np.testing.assert_array_equal(together[3], alone[0])


def test_no_augmentation_changes_nothing():
    keys = jax.random.split(jax.random.key(3), len(PIXELS))
    np.testing.assert_array_equal(augment(Data(name="digits", normalize=UnitRange()), keys, PIXELS), PIXELS)
