import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.models.projector import Projector, aligned_matrix

WIDTH, DIM, SIDE = 2, 6, 16


def _taps(seed=0):
  rng = np.random.default_rng(seed)
  sizes = ((SIDE // 4, 8 * WIDTH), (SIDE // 2, 4 * WIDTH), (SIDE, 2 * WIDTH))
  return tuple(
    jnp.asarray(rng.normal(size=(2, s, s, c)), jnp.float32) for s, c in sizes
  )


def _aligned(x, size):
  """Bilinear with aligned corners, pixel by pixel."""
  n = x.shape[1]
  out = np.zeros((x.shape[0], size, size, x.shape[-1]))
  for i in range(size):
    for j in range(size):
      r, c = i * (n - 1) / (size - 1), j * (n - 1) / (size - 1)
      r0, c0 = min(int(r), n - 2), min(int(c), n - 2)
      a, b = r - r0, c - c0
      out[:, i, j] = (
        (1 - a) * (1 - b) * x[:, r0, c0]
        + (1 - a) * b * x[:, r0, c0 + 1]
        + a * (1 - b) * x[:, r0 + 1, c0]
        + a * b * x[:, r0 + 1, c0 + 1]
      )
  return out


def _naive(params, taps):
  """The paper's form: concatenate at full resolution, then project."""
  x4, x5, x6 = (np.asarray(x, np.float64) for x in taps)
  x = np.concatenate([x6, _aligned(x5, SIDE), _aligned(x4, SIDE)], -1)
  leaky = lambda v: np.where(v > 0, v, 0.01 * v)
  x = leaky(x @ np.asarray(params['kernel0']) + np.asarray(params['bias0']))
  for name in ('dense1', 'dense2'):
    x = x @ np.asarray(params[name]['kernel']) + np.asarray(
      params[name]['bias']
    )
    x = leaky(x) if name == 'dense1' else x
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize('stride', [1, 2, 3])
def test_projecting_before_upsampling_equals_the_naive_form(stride):
  taps = _taps()
  projector = Projector(DIM)
  variables = jax.jit(projector.init)(jax.random.key(0), taps)
  out = jax.jit(projector.apply, static_argnums=2)(variables, taps, stride)
  expected = _naive(variables['params'], taps)[:, ::stride, ::stride]
  np.testing.assert_allclose(out, expected, atol=1e-5)
  np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), 1, atol=1e-5)


def _plain(params, taps):
  """The paper's form again, so that jax finds its gradient."""
  up = lambda x: jnp.einsum(
    'hi,wj,nijc->nhwc',
    aligned_matrix(x.shape[1], SIDE),
    aligned_matrix(x.shape[2], SIDE),
    x,
  )
  x = jnp.concatenate([taps[2], up(taps[1]), up(taps[0])], -1)
  x = nn.leaky_relu(x @ params['kernel0'] + params['bias0'], 0.01)
  x = x @ params['dense1']['kernel'] + params['dense1']['bias']
  x = nn.leaky_relu(x, 0.01) @ params['dense2']['kernel']
  x += params['dense2']['bias']
  x = nn.LayerNorm(epsilon=1e-5).apply({'params': params['norm']}, x)
  return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def test_gradient_equals_that_of_the_plain_form():
  """Of all parameters and taps, to 1e-5 of its norm."""
  taps = _taps()
  projector = Projector(DIM)
  keys = iter(jax.random.split(jax.random.key(1), 20))
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape),
    jax.jit(projector.init)(jax.random.key(0), taps)['params'],
  )
  weights = jax.random.normal(next(keys), (2, SIDE, SIDE, DIM))
  apply = lambda params, taps: projector.apply({'params': params}, taps)
  found, expected = (
    jax.jit(jax.grad(lambda *x, f=f: jnp.sum(f(*x) * weights), (0, 1)))(
      params, taps
    )
    for f in (apply, _plain)
  )
  norm = lambda x: jnp.linalg.norm(jax.flatten_util.ravel_pytree(x)[0])
  off = jax.tree.map(jnp.subtract, found, expected)
  assert norm(off) < 1e-5 * norm(expected)
  assert all(norm(x) > 0 for x in jax.tree.leaves(expected))


def test_interpolation_keeps_constants_and_corners():
  matrix = aligned_matrix(5, 16)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  assert matrix[0, 0] == 1 and matrix[-1, -1] == 1
  np.testing.assert_array_equal(aligned_matrix(1, 4), np.ones((4, 1)))


def test_gradient_is_finite_at_a_zero_embedding():
  taps = jax.tree.map(jnp.zeros_like, _taps())
  projector = Projector(DIM)
  variables = jax.jit(projector.init)(jax.random.key(0), taps)
  loss = lambda v: projector.apply(v, taps).sum()
  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables)):
    assert np.isfinite(leaf).all()


def test_layers_are_the_papers():
  assert issubclass(Projector, nn.Module)
  variables = jax.eval_shape(
    Projector(64).init,
    jax.random.key(0),
    tuple(jnp.zeros((1, s, s, c)) for s, c in ((1, 256), (2, 128), (4, 64))),
  )
  shapes = jax.tree.map(jnp.shape, variables['params'])
  assert shapes['kernel0'] == (448, 448)
  assert shapes['dense2']['kernel'] == (448, 64)
