"""The passes of a DBDC step as one batch, against one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectory import B, C, K, make_batch, make_config, make_signals

from dbdc_jax import methods
from dbdc_jax.methods.common import four_passes, networks, passes
from dbdc_jax.models.modulation import ModulationBank, follow

PASSES, EACH, CHANNELS = 3, 2, 4


def _bank(**settings):
  return ModulationBank(grouped=True, slope=0.01, **settings)


@pytest.mark.parametrize(
  ('count', 'shared'), [(K, False), (K, True), (1, False)]
)
def test_a_bank_of_passes_equals_one_pass_after_another(count, shared):
  """Output, gradients, and what moves the running values, in order."""
  rng = np.random.default_rng(0)
  shape = (PASSES, count * EACH, 6, 6, CHANNELS)
  x = jnp.asarray(rng.normal(2.0, 3.0, shape), jnp.float32)
  weights = jnp.asarray(rng.normal(size=shape), jnp.float32)
  ids = jnp.repeat(jnp.arange(count), EACH)
  rows = 1 if shared else count
  draw = lambda: jnp.asarray(rng.uniform(0.5, 2, (rows, CHANNELS)), jnp.float32)
  params = {'scale': draw(), 'bias': draw()}
  running = {'mean': draw(), 'var': draw(), 'count': jnp.zeros(rows)}
  settings = {'num_modalities': count, 'shared': shared}

  @jax.jit
  def one_batch(params, x):
    out, found = _bank(passes=PASSES, **settings).apply(
      {'params': params, 'modulation': running},
      x.reshape(-1, *x.shape[2:]),
      jnp.tile(ids, PASSES),
      True,
      mutable=['moments'],
    )
    moved = follow(running, found['moments']['found'])
    return jnp.sum(out.reshape(x.shape) * weights), moved

  @jax.jit
  def in_turns(params, x):
    total, moved = 0.0, running
    for images, weight in zip(x, weights, strict=True):
      out, state = _bank(**settings).apply(
        {'params': params, 'modulation': moved},
        images,
        ids,
        True,
        mutable=['modulation'],
      )
      moved = state['modulation']
      total += jnp.sum(out * weight)
    return total, moved

  found, wanted = (
    jax.value_and_grad(f, (0, 1), has_aux=True)(params, x)
    for f in (one_batch, in_turns)
  )
  assert float(found[0][1]['count'][0]) == PASSES * count // rows
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
    found,
    wanted,
  )


@pytest.mark.parametrize('off', ['', 'fpc'])
def test_merged_passes_equal_separate_ones(off):
  """Logits, embeddings, pseudo-labels and moments, whatever is off."""
  config = make_config()
  config.dtype = 'float32'
  if off:
    config.dc[off] = False
  method = methods.build(config)
  net = networks.of_unet(config, extra_head=True)
  signals, batch = make_signals(), jax.tree.map(jnp.asarray, make_batch())

  @jax.jit
  def both(key):
    params, memory = method.init(key)
    step = networks.Step(net, batch, key, signals)
    merged = four_passes.run(step, params, memory)
    views = passes.views(step)
    apart, found = [], []
    learner = four_passes.Learner(net, params, memory)
    decode = lambda features: learner.decode(features, 1, True)
    encoded = {
      name: learner.apply('encode', passes.flat(getattr(views, name)), 1)
      for name in ('images', 'weak', 'strong')
    }
    decoded = {name: decode(f) for name, (f, _) in encoded.items()}
    for name in ('images', 'weak', 'strong'):
      found.append(encoded[name][1] | decoded[name][1])
    apart.append(decoded['images'][0])
    if off != 'fpc':
      *skips, m = encoded['weak'][0]
      rate, keys = config.dc.dropout, passes.flat(views.keys)
      dropped = four_passes.drop_bottleneck((*skips, m), keys, rate)
      apart.append(decode(dropped)[0])
    apart.append(decoded['strong'][0])
    pseudo = jnp.argmax(decoded['weak'][0].logits[0], -1)
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *apart)
    return (
      (merged.seen, merged.moments),
      (together, found),
      (merged.targets[1], pseudo),
    )

  merged, apart, pseudo = both(jax.random.key(3))
  assert merged[0].logits.shape[:3] == (2 if off else 3, K, B)
  assert merged[0].logits.shape[-1] == C
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    merged,
    apart,
  )
  # The last bit may decide where two classes tie.
  assert (pseudo[0] == pseudo[1]).mean() > 0.999


@pytest.fixture(scope='module')
def mixed():
  """A step whose teacher is another network, with CutMix and a threshold."""
  config = make_config()
  config.dtype = 'float32'
  config.dc.pseudo, config.dc.cutmix = 'teacher', 0.5
  method = methods.build(config)
  net = networks.of_unet(config, extra_head=True)
  signals = make_signals(confidence=0.3)
  batch = jax.tree.map(jnp.asarray, make_batch())

  @jax.jit
  def run(key):
    params, memory = method.init(key)
    other, _ = method.init(jax.random.fold_in(key, 1))
    memory['teacher'] = other['unet']
    step = networks.Step(net, batch, key, signals)
    merged = four_passes.run(step, params, memory)
    views = passes.views(step)
    boxes = four_passes._boxes(step, views.keys)
    ids = jnp.repeat(jnp.arange(K), B)
    taught = method.predict(params, memory, passes.flat(views.weak), ids)
    shown = four_passes._mixed(views.strong, boxes)
    learner = four_passes.Learner(net, params, memory)
    features, _ = learner.apply('encode', passes.flat(shown), 1)
    strong, _ = learner.decode(features, 1, project=False)
    moved = method.update(params, memory)
    return {
      'targets': merged.targets,
      'sure': merged.sure,
      'logits': merged.seen.logits[-1],
      'moments': len(merged.moments),
      'boxes': boxes,
      'taught': jax.nn.softmax(taught).reshape(K, B, *taught.shape[1:]),
      'strong': strong.logits[0],
      'params': params['unet'],
      'first': memory,
      'moved': moved,
    }

  return jax.device_get(run(jax.random.key(3)))


def test_a_teacher_labels_in_evaluation_mode_and_is_tested(mixed):
  """`predict` is of the teacher: it says what the pseudo-labels are."""
  taught = mixed['taught']
  np.testing.assert_array_equal(mixed['targets'][1], taught.argmax(-1))
  np.testing.assert_array_equal(mixed['sure'][1], taught.max(-1) >= 0.3)
  assert 0.01 < mixed['sure'][1].mean() < 0.99
  # The weak view has no pass of its own: labelled and strong ones are followed.
  assert mixed['moments'] == 2


def test_the_teacher_follows_the_network(mixed):
  """The first update forgets the start (`ops/teacher.py`)."""
  jax.tree.map(
    np.testing.assert_allclose, mixed['moved']['teacher'], mixed['params']
  )
  assert mixed['moved']['updates'] == 1
  jax.tree.map(
    np.testing.assert_array_equal,
    mixed['moved']['modulation'],
    mixed['first']['modulation'],
  )


def test_boxes_show_the_neighbour_with_its_labels(mixed):
  """Image, pseudo-label and sureness of the strong view move together."""
  boxes = mixed['boxes']
  assert 0.05 < boxes.mean() < 0.45
  np.testing.assert_allclose(mixed['logits'], mixed['strong'], atol=1e-4)
  for found in (mixed['targets'], mixed['sure']):
    wanted = found[1].copy()
    for k in range(K):
      for i in range(B):
        at = boxes[k, i]
        wanted[k, i][at] = found[1][k, i ^ 1][at]
    np.testing.assert_array_equal(found[2], wanted)


def test_slices_without_a_neighbour_are_refused():
  config = make_config()
  config.dc.cutmix = 0.5
  assert methods.build(config).traits.multiple == 2
  net = networks.of_unet(config, extra_head=True)
  keys = jax.random.split(jax.random.key(0), (K, 3))
  with pytest.raises(ValueError, match='multiple of twice the number'):
    four_passes._boxes(networks.Step(net, None, None, None), keys)


def test_terms_belong_to_their_pass():
  """What is off has no term; `sup` is always there."""
  config = make_config()
  config.dc.ipc = False
  method = methods.build(config)
  batch = jax.tree.map(jnp.asarray, make_batch())
  metrics = jax.eval_shape(
    lambda key: method.loss(*method.init(key), batch, key, make_signals())[1][
      1
    ],
    jax.random.key(0),
  )
  passes = {name.split('_')[0] for name in metrics} & {'sup', 'ipc', 'fpc'}
  assert passes == {'sup', 'fpc'}
