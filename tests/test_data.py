import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.data import (
    Data,
    Flip,
    GcnZca,
    PadCrop,
    PerChannel,
    PerPixelMean,
    Rotate,
    Shift,
    UnitRange,
    as_evaluated,
    augment,
)
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


def test_zca_leaves_of_each_direction_what_its_bias_says():
    """cov(out) = V Λ / (Λ + bias) Vᵀ, on images of equal contrast."""
    images = np.random.default_rng(0).integers(0, 256, (500, 3, 3, 2), dtype=np.uint8)
    flat = images.reshape(500, -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    flat *= 55 / np.linalg.norm(flat, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    out = GcnZca(bias=20.0).fit(images)(images)
    assert out.shape == images.shape and out.dtype == np.float32
    found = out.reshape(500, -1).astype(np.float64)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    expected = (vectors * (np.maximum(values, 0) / (values + 20))) @ vectors.T
    np.testing.assert_allclose(np.cov(found.T, bias=True), expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_shift_moves_a_ramp_by_at_most_its_share(axis):
    ramp = jnp.broadcast_to(jnp.arange(20.0).reshape((20, 1, 1) if axis == 0 else (1, 20, 1)), (20, 20, 1))
    moved = jax.vmap(Shift(0.1), in_axes=(0, None))(jax.random.split(jax.random.key(0), 400), ramp)
    inside = np.moveaxis(np.asarray(moved - ramp), 1 + axis, 1)[:, 5:15]
    by = inside[:, 0, 0, 0]
    np.testing.assert_allclose(inside, by[:, None, None, None] * np.ones_like(inside), atol=1e-5)
    assert -2 <= by.min() < -1.9 and 1.9 < by.max() <= 2 and abs(by.mean()) < 0.2


def test_rotate_turns_about_the_centre_by_at_most_its_degrees():
    image = jnp.zeros((21, 21, 1)).at[10, 18].set(1.0)  # eight pixels to the right of the centre
    turned = jax.vmap(Rotate(30, fill=-1), in_axes=(0, None))(jax.random.split(jax.random.key(0), 400), image)
    runs, rows, columns = np.nonzero(np.asarray(turned)[..., 0] == 1)
    angles = np.degrees(np.arctan2(rows - 10, columns - 10))
    assert len(set(runs.tolist())) > 300 and -31 < angles.min() < -28 and 28 < angles.max() < 31
    np.testing.assert_allclose(np.hypot(rows - 10, columns - 10), 8, atol=0.8)
    assert (np.asarray(turned)[:, 0, 0] == -1).any() and (np.asarray(turned)[:, 10, 10] == 0).all()


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


@pytest.mark.parametrize("normalize", [GcnZca(), PerPixelMean()])
def test_a_fitted_normalisation_knows_the_training_images_alone(normalize):
    """An image becomes the same whatever stands beside it, and no other than by the statistics it was fitted to."""
    train, test = np.random.default_rng(0).integers(0, 256, (2, 50, 4, 4, 3), dtype=np.uint8)
    transform = normalize.fit(train)
    alone = np.concatenate([transform(test[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(transform(test)[:3], alone, rtol=1e-3, atol=1e-3)
    assert np.abs(transform(train).mean(axis=0)).max() < 1e-3 < np.abs(transform(test).mean(axis=0)).max()


def test_per_pixel_mean_takes_the_mean_image_from_unit_range_pixels():
    train, test = np.random.default_rng(1).integers(0, 256, (2, 20, 3, 4, 3), dtype=np.uint8)
    expected = test / 255 - train.mean(axis=0) / 255
    found = PerPixelMean().fit(train)(test)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_of_one_grey_stays_finite_under_contrast_normalisation():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 3, 1), dtype=np.uint8)
    images[3] = 77
    assert np.isfinite(GcnZca().fit(images)(images)).all()


def test_shift_moves_rows_and_columns_independently_each_by_its_own_size():
    rows, columns = np.meshgrid(np.arange(40.0), np.arange(20.0), indexing="ij")
    moved = jax.vmap(Shift(0.1), in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 400), jnp.stack([jnp.array(rows), jnp.array(columns)], axis=-1)
    )
    down, right = np.asarray(moved)[:, 20, 10].T - np.array([[20.0], [10.0]])
    assert 3.9 < np.abs(down).max() <= 4 + 1e-4 and 1.9 < np.abs(right).max() <= 2 + 1e-4
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2  # the deviation of 400 independent pairs is 0.05


def test_each_augmentation_draws_for_itself():
    """Two flips by one draw would undo each other; by two, every other image stays mirrored."""
    data = Data(name="cifar10", normalize=UnitRange(), augment=(Flip(), Flip()))
    images = jnp.broadcast_to(jnp.asarray(PIXELS[0], jnp.float32), (400, 8, 8, 3))
    seen = np.asarray(augment(data, jax.random.split(jax.random.key(0), 400), images))
    assert 0.4 < np.mean([np.array_equal(one, np.asarray(images[0])[:, ::-1]) for one in seen]) < 0.6


def test_oblong_images_are_cropped_and_turned_about_their_own_centre():
    images = np.arange(8 * 12, dtype=np.uint8).reshape(1, 8, 12, 1)
    data = Data(name="cifar10", normalize=UnitRange(), crop=4)
    np.testing.assert_allclose(as_evaluated(data, images), images[:, 2:6, 4:8] / 255, rtol=1e-6)
    image = jnp.zeros((9, 21, 1)).at[4, 10].set(1.0)
    turned = jax.vmap(Rotate(30), in_axes=(0, None))(jax.random.split(jax.random.key(0), 50), image)
    assert (turned[:, 4, 10] == 1).all()
