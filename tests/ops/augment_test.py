from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import augment

PLAIN = augment.Augmentation(
  patch_size=16,
  rotation=0.0,
  flips=False,
  scale=0.0,
  intensity_labeled=0.0,
  noise_probability=0.5,
  noise_sigma=0.1,
)
FULL = PLAIN._replace(rotation=20.0, scale=0.1, intensity_labeled=0.25)


def _slices(n=6, size=24, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 65536, (n, size, size)).astype(np.uint16)
  return images, (images // 16384).astype(np.uint8)


def _keys(n=6, seed=0):
  return augment.sample_keys(jax.random.key(seed), jnp.arange(n))


def test_without_draws_a_crop_is_a_piece_of_the_slice():
  images, labels = _slices()
  out, out_labels = jaxed(augment.labeled_view)(images, labels, _keys(), PLAIN)
  for i in range(len(images)):
    found = [
      (r, c)
      for r in range(9)
      for c in range(9)
      if np.array_equal(out_labels[i], labels[i, r : r + 16, c : c + 16])
    ]
    ((r, c),) = found
    expected = images[i, r : r + 16, c : c + 16] / 65535
    np.testing.assert_allclose(out[i, ..., 0], expected, atol=1e-5)


def test_image_and_label_move_together():
  labels = np.zeros((8, 24, 24), np.uint8)
  labels[:, 8:17, 6:13] = 1
  images = labels.astype(np.uint16) * 65535
  settings = FULL._replace(intensity_labeled=0.0, flips=True)
  out, out_labels = jaxed(augment.labeled_view)(
    images, labels, _keys(8), settings
  )
  same = (np.asarray(out[..., 0]) > 0.5) == (np.asarray(out_labels) == 1)
  assert same.mean() > 0.98
  views = jaxed(augment.unlabeled_views)
  weak, _, moved = views(images, _keys(8), settings, labels)
  same = (np.asarray(weak[..., 0]) > 0.5) == (np.asarray(moved) == 1)
  assert same.mean() > 0.98 and (np.asarray(moved) == 1).any()


def test_boxes_cover_half_of_the_image_anywhere():
  draw = jax.jit(jax.vmap(lambda key: augment.half_box(key, 40)))
  boxes = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
  sides = np.stack([boxes.any(2).sum(1), boxes.any(1).sum(1)])
  # A box is all pixels of its rows and columns.
  np.testing.assert_array_equal(boxes.sum((1, 2)), sides.prod(0))
  np.testing.assert_allclose(boxes.mean((1, 2)), 0.5, atol=0.04)
  assert sides.min() >= 19 and sides.max() == 40
  # Both shapes, and every pixel as often inside as its mirror image.
  assert abs((sides[0] > sides[1]).mean() - 0.5) < 0.1
  often = boxes.mean(0)
  np.testing.assert_allclose(often, often[::-1, ::-1], atol=0.15)


def test_views_share_their_geometry_and_strong_stays_in_range():
  images, _ = _slices()
  images = np.where(images > 30000, 65535, 0).astype(np.uint16)
  settings = PLAIN._replace(noise_probability=0.0)
  weak, strong, _ = jaxed(augment.unlabeled_views)(images, _keys(), settings)
  # The curve goes through (0, 0) and (1, 1): black and white stay.
  np.testing.assert_allclose(weak, strong, atol=1e-4)
  noisy = FULL._replace(noise_probability=1.0)
  _, strong, _ = jaxed(augment.unlabeled_views)(images, _keys(), noisy)
  assert strong.min() >= 0 and strong.max() <= 1


def test_draws_depend_on_the_sample_and_not_on_its_neighbours():
  images, labels = _slices()
  whole, _ = jaxed(augment.labeled_view)(images, labels, _keys(), FULL)
  part, _ = jaxed(augment.labeled_view)(
    images[2:4], labels[2:4], _keys()[2:4], FULL
  )
  np.testing.assert_allclose(part, whole[2:4], atol=1e-6)
  other, _ = jaxed(augment.labeled_view)(images, labels, _keys(seed=1), FULL)
  assert not np.allclose(other, whole)


@pytest.mark.parametrize('seed', range(4))
def test_intensity_curve_is_the_bezier_curve_and_monotone(seed):
  points = np.random.default_rng(seed).random((2, 2))
  v = np.linspace(0, 1, 50)
  found = np.asarray(augment.bezier(jnp.asarray(v), jnp.asarray(points)))
  assert (np.diff(found) >= -1e-6).all()
  np.testing.assert_allclose(found[[0, -1]], [0, 1], atol=1e-6)
  x, y = np.sort(points, 1)
  t = np.linspace(0, 1, 5001)
  curve = lambda p: (
    3 * (1 - t) ** 2 * t * p[0] + 3 * (1 - t) * t**2 * p[1] + t**3
  )
  np.testing.assert_allclose(found, np.interp(v, curve(x), curve(y)), atol=0.02)


def test_turns_and_flips_only_where_the_task_allows_them():
  draw = lambda key, s: augment.geometric_matrix(key, s)[0]
  keys = _keys(64)
  plain = jax.vmap(lambda k: draw(k, FULL))(keys)
  assert (np.linalg.det(plain) > 0).all()
  assert (np.asarray(plain)[:, 0, 0] > 0.8).all()
  turned = jax.vmap(lambda k: draw(k, FULL._replace(flips=True)))(keys)
  assert (np.linalg.det(turned) < 0).any()
