import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.models.modulation import ModulationBank, running_momentum
from dbdc_jax.runtime import parallel

K, CHANNELS = 3, 4


def _inputs(per_modality=2, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(3.0, 2.0, (K * per_modality, 6, 5, CHANNELS))
  ids = np.repeat(np.arange(K), per_modality).astype(np.int32)
  return jnp.asarray(x, jnp.float32), jnp.asarray(ids)


def _variables(seed=1):
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.uniform(0.5, 2, (K, CHANNELS)), jnp.float32)
  return {
    'params': {'scale': draw(), 'bias': draw()},
    'modulation': {'mean': draw(), 'var': draw(), 'count': jnp.zeros(K)},
  }


def _train(x, ids, variables, grouped=False):
  bank = ModulationBank(K, grouped=grouped)
  return bank.apply(variables, x, ids, True, mutable=['modulation'])


def _loop(x, ids, variables):
  """K separate batch norms, in NumPy."""
  x, out = np.asarray(x, np.float64), np.zeros(x.shape)
  mean, var, count = (
    np.array(variables['modulation'][k], np.float64)
    for k in ('mean', 'var', 'count')
  )
  for k in range(K):
    mine = np.asarray(ids) == k
    if not mine.any():
      continue
    m, v = x[mine].mean((0, 1, 2)), x[mine].var((0, 1, 2))
    scale, bias = (
      np.asarray(variables['params'][p][k]) for p in ('scale', 'bias')
    )
    out[mine] = scale * (x[mine] - m) / np.sqrt(v + 1e-5) + bias
    alpha = min(0.99, (1 + count[k]) / (10 + count[k]))
    mean[k] = alpha * mean[k] + (1 - alpha) * m
    var[k] = alpha * var[k] + (1 - alpha) * v
    count[k] += 1
  return out, mean, var, count


@pytest.mark.parametrize('grouped', [False, True])
def test_equals_separate_batch_norms(grouped):
  x, ids = _inputs()
  variables = _variables()
  out, state = _train(x, ids, variables, grouped)
  expected = _loop(x, ids, variables)
  state = state['modulation']
  found = (out, state['mean'], state['var'], state['count'])
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_mixed_order_and_absent_modality():
  x, _ = _inputs()
  ids = jnp.array([2, 0, 2, 0, 0, 2])
  variables = _variables()
  out, state = _train(x, ids, variables)
  expected = _loop(x, ids, variables)
  np.testing.assert_allclose(out, expected[0], atol=1e-5)
  np.testing.assert_allclose(
    state['modulation']['mean'], expected[1], atol=1e-5
  )
  np.testing.assert_array_equal(
    state['modulation']['mean'][1], variables['modulation']['mean'][1]
  )
  assert state['modulation']['count'].tolist() == [1, 0, 1]


@pytest.mark.parametrize('grouped', [False, True])
def test_nan_of_one_modality_never_reaches_another(grouped):
  x, ids = _inputs()
  bad = x.at[np.flatnonzero(np.asarray(ids) == 1)].set(jnp.nan)
  out, state = _train(x, ids, _variables(), grouped)
  out_bad, state_bad = _train(bad, ids, _variables(), grouped)
  keep = np.asarray(ids) != 1
  np.testing.assert_array_equal(out[keep], out_bad[keep])
  for name in ('mean', 'var'):
    np.testing.assert_array_equal(
      state['modulation'][name][np.array([0, 2])],
      state_bad['modulation'][name][np.array([0, 2])],
    )


def test_eval_uses_the_stored_statistics():
  x, ids = _inputs()
  v = _variables()
  out = ModulationBank(K).apply(v, x, ids, False)
  pick = lambda a: np.asarray(a)[np.asarray(ids)][:, None, None]
  expected = (np.asarray(x) - pick(v['modulation']['mean'])) / np.sqrt(
    pick(v['modulation']['var']) + 1e-5
  ) * pick(v['params']['scale']) + pick(v['params']['bias'])
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_statistics_stay_where_they_are_not_mutable():
  x, ids = _inputs()
  out = ModulationBank(K).apply(_variables(), x, ids, True)
  again, _ = _train(x, ids, _variables())
  np.testing.assert_array_equal(out, again)


def test_large_offset_keeps_the_variance_exact():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(1e4, 1.0, (K, 16, 16, CHANNELS)), jnp.float32)
  ids = jnp.arange(K)
  zero = {
    'params': _variables()['params'],
    'modulation': {
      'mean': jnp.zeros((K, CHANNELS)),
      'var': jnp.zeros((K, CHANNELS)),
      'count': jnp.zeros(K),
    },
  }
  _, state = _train(x, ids, zero)
  expected = 0.9 * np.asarray(x, np.float64).var((1, 2))
  np.testing.assert_allclose(state['modulation']['var'], expected, rtol=1e-2)


def test_the_variance_is_exact_whatever_pixels_stand_for_the_mean():
  """The few that the mean is guessed from are far from all others here.

  Of values so far from 0, E[x^2] - E[x]^2 is wrong in the first digits.
  """
  rng = np.random.default_rng(0)
  x = rng.normal(1e4, 1.0, (K, 16, 16, CHANNELS))
  x[:, ::4, ::4] += 100
  x = jnp.asarray(x, jnp.float32)
  variables = _variables()
  # As in use: at the level of the other tests sums run one by one.
  level = {'xla_backend_optimization_level': 3}
  train = jax.jit(_train, compiler_options=level)
  _, state = train(x, jnp.arange(K), variables)
  before = np.asarray(variables['modulation']['var'])
  found = (np.asarray(state['modulation']['var']) - 0.1 * before) / 0.9
  np.testing.assert_allclose(
    found, np.asarray(x, np.float64).var((1, 2)), rtol=1e-5
  )


def test_momentum_warms_up_to_its_limit():
  counts = jnp.array([0.0, 8.0, 1e6])
  np.testing.assert_allclose(
    running_momentum(counts, 0.99), [0.1, 0.5, 0.99], rtol=1e-6
  )


def test_statistics_over_devices_equal_one_device():
  x, _ = _inputs(per_modality=4)
  # Spread unevenly: a device may miss a modality altogether.
  ids = jnp.array([0, 0, 0, 1, 2, 2, 1, 1, 0, 2, 1, 2])
  variables = _variables()
  whole, state = _train(x, ids, variables)
  bank = ModulationBank(K)
  step = jax.pmap(
    lambda a, b: bank.apply(variables, a, b, True, mutable=['modulation']),
    axis_name=parallel.AXIS,
  )
  out, split = step(x.reshape(4, 3, *x.shape[1:]), ids.reshape(4, 3))
  np.testing.assert_allclose(out.reshape(x.shape), whole, atol=1e-5)
  np.testing.assert_allclose(
    split['modulation']['var'][0], state['modulation']['var'], atol=1e-5
  )


@pytest.mark.parametrize('grouped', [False, True])
def test_a_shared_row_is_one_batch_norm_that_modalities_pass_in_turns(grouped):
  """Outputs, gradients and running values are those of K separate passes."""
  x, ids = _inputs()
  rows = jax.tree.map(lambda v: v[:1], _variables())
  weights = jnp.asarray(np.random.default_rng(2).normal(size=x.shape))
  offset = jnp.arange(4.0)

  def together(params):
    bank = ModulationBank(K, grouped=grouped, shared=True)
    out, state = bank.apply(
      {**rows, 'params': params}, x, ids, True, offset, mutable=['modulation']
    )
    return jnp.sum(out * weights), (out, state['modulation'])

  def in_turns(params):
    state, outs = rows['modulation'], []
    for k in range(K):
      out, state = ModulationBank(1).apply(
        {'params': params, 'modulation': state},
        x[2 * k : 2 * k + 2],
        ids[:2],
        True,
        offset,
        mutable=['modulation'],
      )
      state = state['modulation']
      outs.append(out)
    out = jnp.concatenate(outs)
    return jnp.sum(out * weights), (out, state)

  found, expected = (
    jax.jit(jax.grad(f, has_aux=True))(rows['params'])
    for f in (together, in_turns)
  )
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  # In evaluation no modality differs from another.
  bank, single = ModulationBank(K, grouped=grouped, shared=True), rows
  np.testing.assert_allclose(
    bank.apply(single, x, ids, False),
    ModulationBank(1).apply(single, x, jnp.zeros_like(ids), False),
    rtol=1e-6,
  )


def test_an_absent_modality_leaves_a_shared_row_alone():
  x, ids = _inputs()
  rows = jax.tree.map(lambda v: v[:1], _variables())
  bank = ModulationBank(K, shared=True)
  here = ids != 1
  _, found = bank.apply(rows, x[here], ids[here], True, mutable=['modulation'])
  assert float(found['modulation']['count'][0]) == K - 1
