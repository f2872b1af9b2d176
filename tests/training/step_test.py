"""The train step: its losses, its gradients, its devices, its compilation."""

import distributed
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectory
from trajectory import (
  B,
  K,
  differences,
  make_batch,
  make_config,
  make_signals,
)

from configs import abdomen
from dbdc_jax import methods
from dbdc_jax.methods.common import supervision
from dbdc_jax.models.unet import UNet
from dbdc_jax.runtime import parallel
from dbdc_jax.training import epoch_metrics, step
from dbdc_jax.workdir import train_state

WIDTH = 3


@pytest.fixture(scope='module')
def config():
  return make_config()


@pytest.fixture(scope='module')
def batch():
  return make_batch()


@pytest.fixture(scope='module')
def start(config):
  """Parameters and memory with a bank that is ready."""
  params, memory = jax.jit(methods.build(config).init)(jax.random.key(0))
  bank = memory['prototypes']
  vectors = np.random.default_rng(1).normal(size=bank.bank.shape)
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  memory['prototypes'] = bank._replace(
    bank=jnp.asarray(vectors, jnp.float32), ready=jnp.ones(K, bool)
  )
  return params, memory


@pytest.fixture(scope='module')
def one_device(config, batch):
  """`(params, memory, batch, signals) -> ((loss, aux), gradients)`."""
  method = methods.build(config)
  key = jax.random.key(3)
  return jax.jit(
    lambda p, m, b, s: jax.value_and_grad(method.loss, has_aux=True)(
      p, m, b, key, s
    )
  )


def _gap(a, b):
  """Largest difference of two gradients, relative to the whole norm."""
  a, b = (jax.tree.leaves(jax.device_get(tree)) for tree in (a, b))
  gaps = [np.abs(x - y).max() for x, y in zip(a, b, strict=True)]
  return max(gaps) / np.sqrt(sum(np.sum(np.square(x)) for x in a))


@pytest.fixture(scope='session')
def one():
  """Ten steps on one device."""
  return trajectory.run('one')


def _close(found, expected):
  for name, gap in differences(found, expected).items():
    assert gap < 1e-5, name


def test_four_devices_equal_one(one):
  """Gradients, statistics, prototypes, MAW's sums, metrics; ten steps long."""
  _close(trajectory.run('all'), one)
  # They are steps, and not the same one ten times.
  name = 'gradients/unet/conv0/conv/kernel'
  assert np.abs(one[f'1/{name}'] - one[f'10/{name}']).max() > 1e-3


def test_four_devices_equal_one_with_a_teacher():
  """Sums over sure pixels are sums over the devices: the first step.

  In ten, rounding decides of some pixel on which side of the threshold it is.
  """
  fields = {'dc.pseudo': 'teacher'}.items()
  one, four = (
    trajectory.run(devices, fields, confidence=0.25)
    for devices in ('one', 'all')
  )
  for name, gap in differences(four, one).items():
    assert gap < 1e-5 or name.startswith('10/'), name
  assert one['10/memory/updates'] == 10
  name = 'memory/teacher/conv0/conv/kernel'
  assert np.abs(one[f'1/{name}'] - one[f'10/{name}']).max() > 0


def test_two_processes_equal_one(one, tmp_path):
  """Two processes with two devices each; only the lead writes."""
  out = tmp_path / 'all.npz'
  processes = distributed.start(
    2, lambda i, at: [trajectory.__file__, at, '2', str(i), str(out)]
  )
  for process in processes:
    text, _ = process.communicate(timeout=500)
    assert process.returncode == 0, text
  with np.load(out) as found:
    _close(dict(found), one)


def test_terms_add_up_to_the_loss(batch, start, one_device):
  (loss, (_, metrics)), _ = one_device(*start, batch, make_signals())
  total = 0.0
  for name, value in metrics.items():
    if name.split('_')[0] in ('sup', 'ipc', 'fpc'):
      share = 1.0 if name.startswith('sup') else 0.5
      total += share * np.sum(np.array([1.3, 0.7]) * np.asarray(value))
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  for name in ('sup_ce', 'sup_mc', 'ipc_ce', 'ipc_pc', 'fpc_ce', 'fpc_pd'):
    assert (np.asarray(metrics[name]) != 0).all()


def test_warmup_lets_nothing_of_the_unlabelled_through(
  config, batch, start, one_device
):
  params, memory = start
  off = make_signals(active=False)
  (loss, (_, metrics)), gradients = one_device(params, memory, batch, off)
  assert not np.asarray(metrics['ipc_ce']).any()
  alone = {'labeled': batch['labeled']}
  method = methods.build(config)
  # Under jit: operation by operation would be compiled one by one.
  labeled_only = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  (expected, _), labeled = labeled_only(
    params, memory, alone, jax.random.key(3), off
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  assert _gap(labeled, gradients) < 1e-5


def test_the_gate_stops_even_a_nan():
  """A loss that is no number reaches neither the sum nor the gradient."""

  def loss(p):
    gated = supervision.gate(p, jnp.asarray(False))
    bad = jnp.sum(gated['w'] * jnp.nan)
    return jnp.sum(p['w'] ** 2) + jnp.where(False, bad, 0.0)

  value, gradient = jax.value_and_grad(loss)({'w': jnp.ones(3)})
  assert value == 3
  np.testing.assert_array_equal(gradient['w'], [2, 2, 2])


def test_running_statistics_take_three_updates_a_step(batch, start, one_device):
  (_, (memory, _)), _ = one_device(*start, batch, make_signals())
  counts = {
    float(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(memory['modulation'])
    if path[-1].key == 'count'
    for leaf in np.asarray(leaf)
  }
  assert counts == {3.0}


def test_bank_of_before_the_step_makes_the_loss(batch, start, one_device):
  params, memory = start
  (_, (new, metrics)), _ = one_device(params, memory, batch, make_signals())
  moved = np.asarray(new['prototypes'].bank - memory['prototypes'].bank)
  assert np.abs(moved).max() > 0
  norms = jnp.linalg.norm(new['prototypes'].bank, axis=-1)
  np.testing.assert_allclose(norms, 1, atol=1e-3)
  assert (metrics['kept_pixels'] <= metrics['offered_pixels']).all()


def _parts(metrics):
  """The passes' terms by name."""
  return {
    name: np.asarray(value)
    for name, value in metrics.items()
    if name.split('_')[0] in ('sup', 'ipc', 'fpc')
  }


def test_the_terms_have_the_weights_of_their_reading(batch, start, one_device):
  """Also that readings share a program."""
  code = [[2.0, 0.2, 0.2, 0.2], [2.0, 0.4, 0.4, 0.4]]
  printed, found = (
    _parts(one_device(*start, batch, make_signals(**reading))[0][1][1])
    for reading in ({}, {'mpcl': np.float32(code)})
  )
  for row, names in zip(code, (('sup',), ('fpc', 'ipc')), strict=True):
    for name in names:
      for term, weight in zip(('pseg', 'mc', 'pc', 'pd'), row, strict=True):
        raw = printed[f'{name}_{term}'] / 0.025
        np.testing.assert_allclose(
          found[f'{name}_{term}'], weight * raw, rtol=1e-4
        )
  assert one_device._cache_size() == 1


def test_terms_of_no_weight_have_no_gradient(batch, start, one_device):
  off = make_signals(mpcl=np.zeros((2, 4), np.float32))
  (loss, (_, metrics)), gradients = one_device(*start, batch, off)
  for part in ('projector', 'prototype_norm'):
    assert not any(np.any(g) for g in jax.tree.leaves(gradients[part]))
  assert np.any(gradients['unet']['conv0']['conv']['kernel'])
  omega = np.array([1.3, 0.7])
  terms = _parts(metrics)
  wanted = sum(
    (1.0 if name.startswith('sup') else 0.5) * np.sum(omega * value)
    for name, value in terms.items()
    if name.endswith(('ce', 'dice'))
  )
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_a_bank_that_must_not_act_keeps_its_bits(batch, start, one_device):
  """A ready one, too: MPCL is off until it acts."""
  params, memory = start
  (_, (new, metrics)), _ = one_device(
    params, memory, batch, make_signals(bank=False)
  )
  same = jax.tree.map(np.array_equal, new['prototypes'], memory['prototypes'])
  assert all(same)
  for name, value in _parts(metrics).items():
    assert value.any() == name.endswith(('_ce', '_dice')), name


def test_weights_may_spare_the_unlabelled_losses(batch, start, one_device):
  signals = make_signals(weighs_unlabeled=False)
  (loss, (_, metrics)), _ = one_device(*start, batch, signals)
  terms, omega = _parts(metrics), np.array([1.3, 0.7])
  wanted = sum(
    np.sum(omega * value) if name.startswith('sup') else 0.5 * np.sum(value)
    for name, value in terms.items()
  )
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_what_no_pseudo_label_is_sure_of_is_left_out(batch, start, one_device):
  """Of every unlabelled loss, and of the bank's update."""
  signals = make_signals(confidence=1.01)
  (_, (_, metrics)), _ = one_device(*start, batch, signals)
  (_, (_, full)), _ = one_device(*start, batch, make_signals())
  for name, value in _parts(metrics).items():
    if name.startswith('sup'):
      np.testing.assert_array_equal(value, full[name])
    elif name.endswith('pseg'):  # Its Dice of nothing is 1 - e / e = 0.
      assert not value.any()
    else:
      assert not value.any(), name
  half = np.asarray(full['offered_pixels']).sum(-1) / 2
  np.testing.assert_array_equal(metrics['offered_pixels'].sum(-1), half)


def test_prediction_compiles_no_projector(config, batch, start, one_device):
  params, memory = start
  method = methods.build(config)
  images, ids = jnp.zeros((2, 16, 16, 1)), jnp.array([0, 1])
  predict = jax.jit(method.predict).lower(params, memory, images, ids)
  channels = f'x{14 * WIDTH}xf32'
  assert channels not in predict.as_text()
  train = one_device.lower(params, memory, batch, make_signals())
  assert channels in train.as_text()


def test_step_is_compiled_once_and_lowers_for_every_platform(batch):
  traced = 0
  # The trajectory's: its program is there already.
  config = trajectory.plain_config()
  method = trajectory.build(config)

  def counted(*args):
    nonlocal traced
    traced += 1
    return method.loss(*args)

  problem = methods.resolve(config)
  step_fn = step.make_step(method._replace(loss=counted))
  state = train_state.init_state(method, problem)
  shapes = train_state.state_shapes(method, problem)
  like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert like(state) == like(shapes)
  sharded = parallel.shard(batch)
  plan = step.Plan(seed=np.int32(0), learning_rate=np.float32(1e-3))
  # A gradient's layout on CUDA is promised to no other version of jax.
  layout = jax.export.DisabledSafetyCheck.custom_call('LayoutConstraint')
  exported = jax.export.export(
    jax.jit(step_fn),
    platforms=('cpu', 'cuda', 'tpu'),
    disabled_checks=[layout],
  )(state, sharded, make_signals(), plan)
  assert set(exported.platforms) == {'cpu', 'cuda', 'tpu'}
  traced = 0
  losses = []
  for active in (False, True, True):
    signals = parallel.place(make_signals(active))
    state, metrics = step_fn(state, sharded, signals, plan)
    losses.append(float(metrics['loss']))
  assert traced <= 1
  assert int(state.step) == 3
  assert np.isfinite(losses).all()


def test_bfloat16_keeps_parameters_and_losses_in_float32(config, batch, start):
  config = config.copy_and_resolve_references()
  config.dtype = 'bfloat16'
  params, memory = start
  shapes = jax.eval_shape(
    jax.value_and_grad(methods.build(config).loss, has_aux=True),
    params,
    memory,
    batch,
    jax.random.key(0),
    make_signals(),
  )
  for leaf in jax.tree.leaves(shapes):
    assert leaf.dtype != jnp.bfloat16


def test_ramp():
  config = abdomen.get_config('scans=/data')
  found = [step.ramp(config, t) for t in (1, 25, 50, 75, 100)]
  expected = [0.0074, 0.0601, 0.2865, 0.7316, 1.0]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  config.dc.ramp = 'constant'
  assert step.ramp(config, 1) == 1
  config.dc.ramp = 'linear'
  with pytest.raises(ValueError, match='choose gaussian or constant'):
    step.ramp(config, 1)


def test_non_finite_loss_names_term_modality_and_step():
  metrics = {
    'loss': np.float32(np.nan),
    'gradient_norm': np.float32(1),
    'sup_ce': np.array([1.0, np.nan]),
    'ipc_ce': np.array([np.nan, np.nan]),
  }
  with pytest.raises(
    epoch_metrics.NonFiniteLossError, match='step 7: sup_ce of modality t2'
  ):
    epoch_metrics.check_finite(metrics, 7, ('ct', 't2'), 'checkpoints')
  fine = {'loss': np.float32(1), 'gradient_norm': np.float32(1)}
  epoch_metrics.check_finite(fine, 7, ('ct', 't2'), 'checkpoints')


def test_batches_that_do_not_divide_name_the_nearest_that_does():
  parallel.check_batch(8)
  with pytest.raises(ValueError, match='batch_size=8'):
    parallel.check_batch(7)


def test_all_passes_with_a_gradient_are_one_batch(config, batch, start):
  """Labelled, weak and strong are encoded together, all modalities at once.

  Labelled, dropout (of the weak encoder's features) and strong are decoded
  together; the weak view, which has no gradient there, before them.
  """
  passes = []

  def spy(call, args, kwargs, context):
    name = context.method_name
    if isinstance(context.module, UNet) and name in (
      'encode',
      'decode',
      'head',
    ):
      passes.append((name, jax.tree.leaves(args)[0].shape[0]))
    return call(*args, **kwargs)

  with nn.intercept_methods(spy):
    jax.eval_shape(
      methods.build(config).loss,
      *start,
      batch,
      jax.random.key(0),
      make_signals(),
    )
  everyone = K * B
  assert passes == [
    ('encode', 3 * everyone),
    ('decode', everyone),
    ('head', everyone),
    ('decode', 3 * everyone),
    ('head', 3 * everyone),
  ]
