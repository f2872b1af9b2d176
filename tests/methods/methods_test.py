"""Every method on every task: what a new one has to live up to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pixelwise
import pytest

from configs import abdomen, heart
from data.task import ABDOMEN, UNKNOWN
from dbdc_jax import methods

# Methods that are about two modalities, in networks of their own.
TRANSFERS = ('ram_dsir', 'ram_dsir_full', 'varda', 'varda_full')
PAIRED = (*TRANSFERS, 'summl', 'mass')
PLAIN = sorted({*methods.names()} - {'dbdc', *PAIRED})
B, SIZE = 2, 32
KEY = jax.random.key(3)


def _batch(modalities, classes):
  rng = np.random.default_rng(0)
  shape = (modalities, B, SIZE, SIZE)
  image = lambda: rng.integers(0, 65536, shape).astype(np.uint16)
  index = np.arange(modalities * B, dtype=np.int32).reshape(modalities, B)
  label = rng.integers(0, classes, shape).astype(np.uint8)
  return {
    'labeled': {'image': image(), 'label': label, 'index': index},
    'unlabeled': {'image': image(), 'index': index},
  }


def _drawn(method):
  """Parameters by NumPy, and the memory: drawing them takes long to compile."""
  rng = np.random.default_rng(0)
  shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), shapes
  )
  return params, jax.jit(lambda key: method.init(key)[1])(jax.random.key(0))


# Whole runs of these on the phantom are in integration_test (dbdc on both
# tasks, supervised), transfer_test and mass_test; `_full` takes the steps of
# the other.
RUNS = {'dbdc', 'supervised', 'ram_dsir', 'mass'}
NAMED = sorted({n for n in methods.names() if not n.endswith('_full')} - RUNS)


# Of the plain networks one task tells all: only their classes' number differs.
@pytest.mark.parametrize('name', NAMED)
def test_two_steps_of_every_method(name):
  config = abdomen.get_config(f'method={name}')
  config.model.width, config.model.embedding_dim = 2, 4
  config.augment.patch_size = config.data.slice_size = SIZE
  names = [modality.name for modality in ABDOMEN.modalities]
  if name in PAIRED:
    config.modalities = ','.join(names[:2])
  if not methods.traits(config).joint:
    with pytest.raises(ValueError, match='one network per modality'):
      methods.build(config)
    config.modalities = names[0]
  method = methods.build(config)
  classes = len(ABDOMEN.classes)
  modalities = len(ABDOMEN.select(config.modalities))
  signals = methods.full_signals(
    jnp.ones((modalities, classes), bool), jnp.ones(modalities, bool)
  )
  batch = jax.tree.map(jnp.asarray, _batch(modalities, classes))

  @jax.jit
  def step(params, memory, key):
    (loss, (memory, metrics)), gradients = jax.value_and_grad(
      method.loss, has_aux=True
    )(params, memory, batch, key, signals)
    params = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradients)
    norm = optax.tree.norm(gradients)
    return params, method.update(params, memory), (loss, metrics, norm)

  params, memory = _drawn(method)
  shapes = jax.tree.map(jnp.shape, (params, memory))
  for index in range(2):
    params, memory, (loss, metrics, norm) = step(
      params, memory, jax.random.key(index)
    )
    assert np.isfinite(loss) and np.isfinite(norm)
    assert metrics['dice_counts'].shape == (2, modalities, classes)
  assert jax.tree.map(jnp.shape, (params, memory)) == shapes
  images = jnp.zeros((3, SIZE, SIZE, 1))
  ids = jnp.arange(3, dtype=jnp.int32) % modalities
  logits = jax.jit(method.predict)(params, memory, images, ids)
  assert logits.shape == (3, SIZE, SIZE, classes)


def _of_classes(params, count):
  """The leaves of the segmentation heads, whose last axis is the class."""
  return [
    np.asarray(leaf)
    for path, leaf in jax.tree.leaves_with_path(params)
    if "'logits'" in jax.tree_util.keystr(path) and leaf.shape[-1] == count
  ]


# Of the others, what is learnt from labels is `supervision.labeled_terms`, too,
# or is tested with them; but images without labels move all classes.
@pytest.mark.parametrize('name', ['dbdc', 'summl', *PLAIN])
def test_what_nobody_drew_teaches_nothing_and_what_was_drawn_does(name):
  """By label maps, and by what they say of slices that they leave open."""
  config = abdomen.get_config(f'method={name}')
  config.update_from_flattened_dict(
    {'model.width': 2, 'model.embedding_dim': 4, 'joint': 'true'}
  )
  config.augment.patch_size = config.data.slice_size = 24
  config.modalities = 'ct,t2'
  method, classes = methods.build(config), len(ABDOMEN.classes)
  labeled = _batch(2, classes)['labeled']
  labels = labeled['label'][..., :24, :24]
  drawn = np.zeros((2, B, classes), bool)
  drawn[:, 0, 1] = drawn[:, 1, 3] = True
  there = np.take_along_axis(drawn, labels.reshape(2, B, -1), -1)
  labels = np.where(there.reshape(labels.shape), labels, 0).astype(np.uint8)
  labels[..., :3] = UNKNOWN
  batch = {
    'labeled': {
      'image': labeled['image'][..., :24, :24],
      'label': labels,
      'index': labeled['index'],
      'drawn': drawn,
    }
  }
  batch['unlabeled'] = {
    **batch['labeled'],
    'label': np.zeros_like(labels),
    'drawn': np.zeros_like(drawn),
  }
  present = jnp.asarray(np.array([[True, True, False, True, False]] * 2))
  signals = methods.full_signals(present, jnp.ones(2, bool))._replace(
    active=jnp.asarray(False),
    prototyped=present & (jnp.arange(classes) > 0),
  )
  step = jax.jit(
    jax.value_and_grad(
      lambda params, memory, unlabeled, signals: method.loss(
        params,
        memory,
        jax.tree.map(jnp.asarray, batch) | {'unlabeled': unlabeled},
        KEY,
        signals,
      ),
      has_aux=True,
    )
  )
  params, memory = _drawn(method)
  (_, (_, metrics)), gradients = step(
    params, memory, batch['unlabeled'], signals
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
  heads = _of_classes(gradients, classes)
  assert heads
  for gradient in heads:
    np.testing.assert_array_equal(gradient[..., [2, 4]], 0)
    for index in (0, 1, 3):
      assert np.any(gradient[..., index])
  if method.traits.unlabeled:
    active = signals._replace(active=jnp.asarray(True))
    known = batch['unlabeled'], batch['labeled']
    (first, _), (second, _) = (
      step(params, memory, group, active)[0] for group in known
    )
    assert abs(first - second) > 1e-4 * abs(first)


def test_an_unknown_assignment_is_refused():
  config = heart.get_config()
  config.mpcl.assignment = 'sinkhron'
  with pytest.raises(ValueError, match='choose sinkhorn or label'):
    methods.build(config)


@pytest.mark.parametrize(
  ('field', 'value', 'allowed'),
  [
    ('recipe', 'theirs', 'dbdc, own'),
    ('joint', 'yes', 'auto, true, false'),
    ('model.modulation', 'decoder', r'none, encoder, encoder\+bottleneck, all'),
  ],
)
def test_unknown_choices_are_refused(field, value, allowed):
  config = heart.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=f"{field}='{value}': choose {allowed}"):
    methods.build(config)


@pytest.mark.parametrize('name', ['dbdc', 'summl', 'mass', *PLAIN])
def test_joint_says_how_many_networks_there_are(name):
  config = heart.get_config(f'method={name}')
  assert methods.traits(config).joint == (name in (*PAIRED, 'dbdc'))
  # Adaptive weights are DBDC's own.
  assert methods.traits(config).weighted == (name == 'dbdc')
  for value, joint in (('true', True), ('false', False)):
    config.joint = value
    if name in PAIRED and not joint:
      with pytest.raises(ValueError, match='two modalities'):
        methods.build(config)
    else:
      assert methods.traits(config).joint == joint


@pytest.mark.parametrize('name', PLAIN)
def test_one_network_for_all_has_one_normalisation_or_one_for_each(name):
  """Modality-specific ones cost what they do in DBDC, mixed ones nothing."""
  sizes = {}
  for joint, modulation in (
    ('false', 'all'),
    ('true', 'mixed'),
    ('true', 'none'),
    ('true', 'all'),
  ):
    config = heart.get_config(f'scans=/d,method={name}')
    config.joint, config.model.modulation = joint, modulation
    config.modalities = 'ct' if joint == 'false' else 'ct,mr'
    init = methods.build(config).init
    params, _ = jax.eval_shape(init, jax.random.key(0))
    sizes[joint, modulation] = sum(x.size for x in jax.tree.leaves(params))
  alone = sizes['false', 'all']
  assert sizes['true', 'mixed'] == sizes['true', 'none'] == alone
  networks = round(alone / 4_875_752)
  # Without DBDC's convolution in the head: 128 values fewer than 4,864.
  assert sizes['true', 'all'] - alone == networks * (4_864 - 128)


@pytest.mark.parametrize('name', ['varda', 'ram_dsir'])
def test_with_all_labels_a_transfer_is_the_same_method(name):
  """Its steps are those of the other; the split is not."""
  config = abdomen.get_config(f'method={name}')
  config.source, config.target = 't2', 'ct'
  some = methods.build(config)
  config.method = f'{name}_full'
  all_labels = methods.build(config)
  for part in ('init', 'loss', 'predict'):
    one, two = getattr(some, part), getattr(all_labels, part)
    assert one.func is two.func
    # What is bound: networks, augmentation, config and so on.
    assert one.args[0][:2] == two.args[0][:2]
    assert (one.args[1:], one.keywords) == (two.args[1:], two.keywords)
  full = some.traits.transfer._replace(full=True)
  assert all_labels.traits == some.traits._replace(transfer=full)


@pytest.mark.parametrize('name', TRANSFERS)
def test_transfers_refuse_other_numbers_of_modalities(name):
  config = abdomen.get_config(f'method={name}')
  with pytest.raises(ValueError, match='from one modality to another'):
    methods.build(config)
  config.modalities, config.joint = 'ct,t2', 'false'
  with pytest.raises(ValueError, match='joint=auto'):
    methods.build(config)


def test_each_recipe_has_its_optimizer():
  config = heart.get_config('method=cps')
  config.modalities = 'ct'
  adam = methods.build(config).recipe
  assert adam.learning_rate == config.optimizer.learning_rate
  config.recipe = 'own'
  sgd = methods.build(config).recipe
  assert sgd.learning_rate == 0.01
  params = {'net1': jnp.ones(2), 'net2': jnp.ones(2)}
  count = lambda recipe: len(jax.tree.leaves(recipe.tx.init(params)))
  # Adam: two moments of each array and a counter; SGD: one momentum.
  assert (count(adam), count(sgd)) == (5, 2)
  # DBDC's own recipe is the one that all have by default.
  config.method = 'dbdc'
  assert methods.build(config).recipe.learning_rate == adam.learning_rate


# The others' parts are in these.
@pytest.mark.parametrize('name', ['uamt', 'ict', 'evil', 'summl'])
def test_four_devices_equal_one(name, monkeypatch):
  """Gradients, statistics and metrics, whatever is spread over devices."""
  count = 8  # Pairs on each of four devices.
  config = pixelwise.config(name, recipe='own', batch_size=count)
  pixelwise.build(monkeypatch, config)
  signals = pixelwise.signals(progress=jnp.float32(0.3))
  pixelwise.four_equal_one(config, count, signals)
