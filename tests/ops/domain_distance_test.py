from arrays import jaxed
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import domain_distance
from dbdc_jax.runtime import parallel


def _domain(seed, count=3, shape=(2, 3, 2)):
  rng = np.random.default_rng(seed)
  mean = rng.uniform(-1, 1, (count, *shape))
  variance = np.exp(rng.uniform(-1, 1, (count, *shape)))
  return mean.astype(np.float32), variance.astype(np.float32)


def _direct(a, b):
  """Pair by pair and element by element."""

  def kernels(one, other):
    total = 0.0
    for m, v in zip(*one, strict=True):
      for n, w in zip(*other, strict=True):
        for x, y, s, t in zip(*map(np.ravel, (m, n, v, w)), strict=True):
          total += np.exp(-0.5 * (x - y) ** 2 / (s + t)) / np.sqrt(s + t)
    return total

  found = kernels(a, a) + kernels(b, b) - 2 * kernels(a, b)
  return found / (len(a[0]) * a[0].size)


def test_it_equals_the_direct_sum():
  a, b = _domain(0), _domain(1)
  found = jax.jit(domain_distance.distance)(a, b)
  np.testing.assert_allclose(found, _direct(a, b), rtol=1e-4)


def test_its_gradient_is_that_of_all_pairs_at_once():
  """Computing a row at a time changes nothing."""
  a, b = _domain(0), _domain(1)

  def at_once(a, b):
    def kernels(one, other):
      (m, v), (n, w) = one, other
      both = v[:, None] + w[None]
      gap = m[:, None] - n[None]
      return jnp.sum(jnp.exp(-0.5 * gap**2 / both) / jnp.sqrt(both))

    scale = len(a[0]) * a[0].size
    return (kernels(a, a) + kernels(b, b) - 2 * kernels(a, b)) / scale

  wanted = jax.jit(jax.grad(at_once))(a, b)
  found = jax.jit(jax.grad(domain_distance.distance))(a, b)
  for x, y in zip(found, wanted, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


def test_no_matrix_of_pairs_is_ever_held():
  """The largest array of the gradient's program is an input or a row."""
  count, size = 16, 500
  a, b = _domain(0, count, (size,)), _domain(1, count, (size,))
  program = jax.make_jaxpr(jax.grad(domain_distance.distance))(a, b)

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      for value in equation.outvars:
        yield np.prod(value.aval.shape, dtype=int)
      yield from (
        size
        for inner in jax.extend.core.jaxprs_in_params(equation.params)
        for size in sizes(inner)
      )

  assert max(sizes(program.jaxpr)) == count * size


def test_of_a_domain_to_itself_it_is_0_and_else_above():
  a, b = _domain(0), _domain(1)
  distance = jax.jit(domain_distance.distance)
  np.testing.assert_allclose(distance(a, a), 0, atol=1e-5)
  order = np.array([2, 0, 1])
  shuffled = tuple(x[order] for x in a)
  np.testing.assert_allclose(distance(a, shuffled), 0, atol=1e-5)
  near = (a[0] + 0.1, a[1])
  far = (a[0] + 1.0, a[1])
  assert 1e-3 < distance(a, near) < distance(a, far)
  np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-5)


def test_its_size_does_not_depend_on_the_batch():
  """Every image twice is the same domain."""
  a, b = _domain(0), _domain(1)
  twice = lambda d: tuple(np.concatenate([x, x]) for x in d)
  distance = jax.jit(domain_distance.distance)
  np.testing.assert_allclose(
    distance(a, b), distance(twice(a), twice(b)), rtol=1e-4
  )


def test_its_size_does_not_depend_on_the_latents():
  """Every element twice, in rows, columns or channels, says the same."""
  a, b = _domain(0), _domain(1)
  distance = jax.jit(domain_distance.distance)
  for axis in (1, 2, 3):
    twice = lambda d, axis=axis: tuple(np.repeat(x, 2, axis) for x in d)
    np.testing.assert_allclose(
      distance(a, b), distance(twice(a), twice(b)), rtol=1e-4
    )


def test_four_devices_equal_one():
  """Pairs of images on different devices count too."""
  a, b = _domain(0, 4), _domain(1, 4)

  def moved(shift, a, b):
    a = (a[0] * shift, a[1])
    return domain_distance.distance(a, b)

  wanted = jax.jit(jax.value_and_grad(moved))(jnp.float32(2.0), a, b)

  def spread(shift, batch, signals, plan):
    # `[1, images, ...]` of this device.
    a, b = ([x[0] for x in d] for d in batch)
    found, gradient = jax.value_and_grad(moved)(shift, a, b)
    return found, parallel.mean_gradients(gradient)

  batch = jax.tree.map(lambda x: x[None], (a, b))
  shift, signals = parallel.place((jnp.float32(2.0), jnp.zeros(())))
  found = parallel.pmap_step(spread)(
    shift, parallel.shard(batch), signals, signals
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_pooling_is_that_of_independent_values():
  """The mean of squares, and of it the variance, by a loop and by drawing."""
  mean, variance = _domain(0, 2, (9, 8, 2))
  found, spread = jaxed(domain_distance.pooled)(mean, variance)
  assert found.shape == spread.shape == (2, 2, 2, 2)
  for n, r, c in np.ndindex(2, 2, 2):
    square = np.s_[n, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
    np.testing.assert_allclose(
      found[n, r, c], mean[square].mean((0, 1)), rtol=1e-5
    )
    np.testing.assert_allclose(
      spread[n, r, c], variance[square].sum((0, 1)) / 16**2, rtol=1e-5
    )
  rng = np.random.default_rng(0)
  draws = rng.normal(size=(20_000, 4, 4)) * np.sqrt(variance[0, :4, :4, 0])
  assert draws.mean((1, 2)).var() == pytest.approx(
    float(spread[0, 0, 0, 0]), rel=0.05
  )
