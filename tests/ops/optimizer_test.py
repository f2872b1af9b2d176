import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import heart
from dbdc_jax import methods
from dbdc_jax.ops import optimizer
from dbdc_jax.workdir import checkpoint


def _run(tx, gradients, rates, params, lefts):
  """Steps as the train step makes them."""
  tx = optax.with_extra_args_support(tx)
  state = tx.init(params)
  for gradient, rate, left in zip(gradients, rates, lefts, strict=True):
    updates, state = tx.update(gradient, state, params, left=left)
    updates = optax.tree.scale(-rate, updates)
    params = optax.apply_updates(params, updates)
  return params


def test_sgd_is_momentum_over_gradient_and_decay():
  rng = np.random.default_rng(0)
  gradients, rates = rng.normal(size=(6, 3)), rng.uniform(size=6)
  p, velocity = np.ones(3), np.zeros(3)
  for gradient, rate in zip(gradients, rates, strict=True):
    velocity = 0.9 * velocity + gradient + 0.05 * p
    p = p - rate * velocity
  found = _run(
    optimizer.sgd(0.05), jnp.asarray(gradients), rates, jnp.ones(3), rates
  )
  np.testing.assert_allclose(found, p, rtol=1e-4)


def test_rate_falls_to_nothing_from_the_first_one():
  settings = heart.get_config('scans=/d').optimizer
  assert (settings.learning_rate, settings.power) == (1e-4, 0.9)
  rate = lambda finished: optimizer.learning_rate(
    0.01, optimizer.share_left(finished, 10), settings.power
  )
  assert rate(0) == 0.01
  np.testing.assert_allclose(rate(4), 0.01 * 0.6**0.9)
  assert rate(10) == rate(11) == 0


def test_evils_networks_have_their_own_rates():
  """Powers 0.99 and 0.9, weight decay 1e-3, each its own momentum."""
  config = heart.get_config('method=evil')
  config.modalities, config.recipe = 'ct', 'own'
  method = methods.build(config)
  steps = 5
  rng = np.random.default_rng(0)
  draw = rng.normal(size=(steps, 2, 3))
  gradients = [{'net1': a, 'net2': b} for a, b in jnp.asarray(draw)]
  lefts = [optimizer.share_left(i, steps) for i in range(steps)]
  decay = config.optimizer.power
  rates = [optimizer.learning_rate(0.01, left, decay) for left in lefts]
  start = {'net1': jnp.ones(3), 'net2': jnp.ones(3)}
  found = _run(method.recipe.tx, gradients, rates, start, lefts)
  for index, power in enumerate((0.99, 0.9)):
    p, velocity = np.ones(3), np.zeros(3)
    for i in range(steps):
      velocity = 0.9 * velocity + draw[i, index] + 1e-3 * p
      p = p - 0.01 * (1 - i / steps) ** power * velocity
    np.testing.assert_allclose(found[f'net{index + 1}'], p, rtol=1e-5)


def test_a_state_of_several_optimizers_is_kept_by_a_checkpoint(tmp_path):
  config = heart.get_config('method=evil')
  config.modalities, config.recipe = 'ct', 'own'
  tx = methods.build(config).recipe.tx
  params = {'net1': {'w': jnp.ones(3)}, 'net2': {'w': jnp.full(3, 2.0)}}
  empty = {'params': params, 'opt_state': tx.init(params)}
  state = jax.tree.map(lambda x: x + 1, empty)
  with checkpoint.Checkpoints(tmp_path) as store:
    store.save(1, state, 0.5)
    number, found = store.latest(empty)
  assert number == 1
  assert jax.tree.structure(found) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)
