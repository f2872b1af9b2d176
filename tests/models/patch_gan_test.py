import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.models.patch_gan import PatchGan


def _convolve(x, kernel, bias, stride):
  """`[H, W, c]`, output by output."""
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  rows, columns = ((n - 4) // stride + 1 for n in x.shape[:2])
  out = np.zeros((rows, columns, kernel.shape[-1]))
  for r in range(rows):
    for c in range(columns):
      window = x[r * stride : r * stride + 4, c * stride : c * stride + 4]
      out[r, c] = np.einsum('abc,abcd->d', window, kernel) + bias
  return out


def test_scores_are_those_of_a_loop():
  net = PatchGan(2)
  images = np.random.default_rng(0).normal(size=(2, 32, 24, 1))
  images = images.astype(np.float32)
  params = jax.jit(net.init)(jax.random.key(0), images)['params']
  # Larger weights: what is normalised is not almost 0.
  params = jax.tree.map(lambda x: 20 * x + 0.1, params)
  found = np.asarray(jax.jit(net.apply)({'params': params}, images))
  layers = jax.tree.map(lambda p: np.asarray(p, float), params)
  for image, scores in zip(images, found, strict=True):
    x = image.astype(float)
    for index, stride in enumerate((2, 2, 2, 1, 1)):
      layer = layers[f'Conv_{index}']
      x = _convolve(x, layer['kernel'], layer['bias'], stride)
      if 0 < index < 4:
        x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
      if index < 4:
        x = np.where(x >= 0, x, 0.2 * x)
    np.testing.assert_allclose(scores, x, rtol=1e-4, atol=1e-4)


def test_parameters_are_those_of_the_usual_form():
  shapes = jax.eval_shape(
    PatchGan().init, jax.random.key(0), jnp.zeros((1, 96, 96, 1))
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 2_762_689


def test_an_image_too_small_is_refused():
  with pytest.raises(ValueError, match=r'patch_size.*choose 24 or more'):
    jax.eval_shape(
      PatchGan().init, jax.random.key(0), jnp.zeros((1, 16, 16, 1))
    )
