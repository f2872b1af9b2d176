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
