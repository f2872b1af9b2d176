import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.inference import sliding_window

CLASSES = 3


def _predict(params, memory, images, modality):
  """Logits that depend on the place within the window and the modality."""
  del memory
  ramp = jnp.arange(images.shape[1])[None, :, None, None] / 7.0
  shift = modality[:, None, None, None]
  channels = jnp.arange(CLASSES) * params
  return jnp.sin(9 * images + ramp + shift) * channels


NETWORK = sliding_window.Network(_predict, 2.0, None)


def _images(count, height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 65536, (count, height, width)).astype(np.uint16)


def _slow(images, modality, patch, stride):
  """Window by window, slice by slice."""
  out = np.zeros((*images.shape, CLASSES))
  weight = np.zeros(images.shape[1:])
  for r in sliding_window.window_starts(images.shape[1], patch, stride):
    for c in sliding_window.window_starts(images.shape[2], patch, stride):
      weight[r : r + patch, c : c + patch] += 1
      for i, image in enumerate(images):
        window = image[r : r + patch, c : c + patch] / 65535.0
        logits = _predict(
          2.0, None, jnp.asarray(window)[None, ..., None], np.array([modality])
        )
        p = np.asarray(jax.nn.softmax(logits))[0]
        out[i, r : r + patch, c : c + patch] += p
  return out / weight[..., None]


@pytest.mark.parametrize('size', [8, 9, 12, 15, 16, 31])
def test_windows_cover_every_pixel_and_stay_inside(size):
  starts = sliding_window.window_starts(size, 8, 4)
  assert starts[0] == 0 and starts[-1] + 8 == size
  assert np.all(np.diff(starts) > 0) and np.all(np.diff(starts) <= 4)


@pytest.mark.parametrize('modality', [0, 1])
def test_equals_the_plain_loop(modality):
  images = _images(5, 14, 20)
  settings = {'patch': 8, 'stride': 4, 'batch': 2}
  p = sliding_window.of_one_size(NETWORK, images, modality, **settings)
  expected = _slow(images, modality, 8, 4)
  np.testing.assert_allclose(p, expected, atol=1e-5)
  labels = sliding_window.of_one_size(
    NETWORK, images, modality, **settings, hard=True
  )
  np.testing.assert_array_equal(labels, expected.argmax(-1))


def test_slice_as_large_as_the_patch_is_one_window():
  images = _images(3, 8, 8)
  p = sliding_window.of_one_size(NETWORK, images, 0, patch=8, stride=4, batch=4)
  np.testing.assert_allclose(p, _slow(images, 0, 8, 4), atol=1e-5)


def test_any_number_of_slices_and_any_modality_is_one_compilation():
  traced = 0

  def counted(*args):
    nonlocal traced
    traced += 1
    return _predict(*args)

  for count, modality in ((1, 0), (4, 1), (7, 0)):
    sliding_window.of_one_size(
      sliding_window.Network(counted, 2.0, None),
      _images(count, 12, 12),
      modality,
      patch=8,
      stride=4,
      batch=4,
      hard=True,
    )
  assert traced == 1


@pytest.mark.parametrize('shape', [(3, 9, 21), (1, 8, 8), (5, 16, 11)])
def test_any_size_equals_the_plain_loop(shape):
  images = _images(*shape)
  found = sliding_window.of_any_size(
    NETWORK,
    images / np.float32(65535),
    1,
    patch=8,
    stride=4,
    batch=4,
  )
  slow = _slow(images, 1, 8, 4)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, slow, atol=1e-5)


def test_mirrored_windows_are_averaged():
  """Over both flips, and flipped back: a slow loop of one window."""
  image = _images(1, 8, 8) / np.float32(65535)
  found = sliding_window.of_any_size(
    NETWORK, image, 0, patch=8, stride=4, batch=4, mirrored=True
  )
  slow = 0
  for flip in ((), (0,), (1,), (0, 1)):
    window = np.flip(image[0], flip)
    logits = _predict(2.0, None, window[None, ..., None], np.array([0]))
    slow = slow + np.flip(np.asarray(jax.nn.softmax(logits))[0], flip) / 4
  np.testing.assert_allclose(found[0], slow, atol=1e-5)
