import jax.numpy as jnp
import numpy as np

from dbdc_jax.ops import teacher


def _follow(values, limit):
  memory = teacher.init({'w': jnp.float32(100.0)})
  for value in values:
    memory = teacher.follow({'w': jnp.float32(value)}, memory, limit)
  assert int(memory['updates']) == len(values)
  return float(memory['teacher']['w'])


def test_the_first_students_count_alike():
  """Until 1 - 1/n is the limit, the teacher is their mean without its start."""
  values = np.random.default_rng(0).normal(size=50)
  np.testing.assert_allclose(_follow(values, 0.99), values.mean(), rtol=1e-4)


def test_later_ones_make_an_exponential_average():
  """sum of (1 - a) a^(n - i) v_i behind the mean of the first 1 / (1 - a)."""
  values = np.random.default_rng(1).normal(size=30)
  a, first = 0.8, 5
  ages = np.arange(len(values) - first)[::-1]
  expected = a ** len(ages) * values[:first].mean()
  expected += np.sum((1 - a) * a**ages * values[first:])
  np.testing.assert_allclose(_follow(values, a), expected, rtol=1e-4)
