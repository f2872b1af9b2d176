import jax
import jax.numpy as jnp
import numpy as np

from dbdc_jax.ops import image_pool

K, SIZE, COUNT = 2, 8, 3


def _made(step):
  """Images whose value names the step, the modality and the number."""
  value = 100 * step + 10 * np.arange(K)[:, None] + np.arange(COUNT) + 1.0
  return jnp.asarray(
    np.broadcast_to(value[..., None, None, None], (K, COUNT, 2, 2, 1))
  )


POSITION = jnp.tile(jnp.arange(COUNT), (K, 1))
EXCHANGE = jax.jit(image_pool.exchange, static_argnums=3)


def _run(steps):
  """What is made, what is shown and the pool before each step."""
  pool = image_pool.init(K, SIZE, 2)
  for step in range(steps):
    made = _made(step)
    shown, after = EXCHANGE(pool, made, POSITION, COUNT, jax.random.key(step))
    yield np.asarray(made), np.asarray(shown), pool, after
    pool = after


def _values(images):
  return images[..., 0, 0, 0]


def test_until_it_is_full_each_is_stored_and_shown_itself():
  for step, (made, shown, _, after) in enumerate(_run(3)):
    np.testing.assert_array_equal(shown, made)
    assert after['count'] == min(SIZE, COUNT * (step + 1))
  found = _values(np.asarray(after['images']))
  expected = np.concatenate(
    [_values(np.asarray(_made(s))) for s in range(3)], 1
  )
  # The ninth found no place.
  np.testing.assert_array_equal(found, expected[:, :SIZE])


def test_a_full_pool_swaps_every_other_one_with_a_random_one():
  swaps, places = 0, set()
  for step, (made, shown, before, after) in enumerate(_run(60)):
    if step < 3:
      continue
    old, new = (_values(np.asarray(p['images'])) for p in (before, after))
    for k in range(K):
      changed = np.flatnonzero(old[k] != new[k])
      pairs = zip(_values(made[k]), _values(shown[k]), strict=True)
      swapped = [(mine, other) for mine, other in pairs if mine != other]
      # Where something was stored, what stood there is shown in its stead.
      assert {(new[k, i], old[k, i]) for i in changed} == {*swapped}
      swaps, places = swaps + len(swapped), places | {*changed.tolist()}
  assert abs(swaps / (57 * K * COUNT) - 0.5) < 0.1 and len(places) == SIZE


def test_it_has_no_gradient():
  pool = image_pool.init(K, SIZE, 2) | {'count': jnp.int32(SIZE)}

  def total(images, made):
    given = pool | {'images': images}
    shown, after = image_pool.exchange(
      given, made, POSITION, COUNT, jax.random.key(0)
    )
    return shown.sum() + after['images'].sum()

  for gradient in jax.grad(total, (0, 1))(pool['images'], _made(0)):
    np.testing.assert_array_equal(gradient, 0)
