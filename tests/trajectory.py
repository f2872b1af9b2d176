"""Ten steps of DBDC on made-up slices, seen from inside.

Run as a program, it is one of several processes that share the steps:

  python tests/trajectory.py HOST:PORT COUNT ID OUT.npz
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import abdomen
from dbdc_jax import methods
from dbdc_jax.ops import losses, weighting
from dbdc_jax.runtime import parallel
from dbdc_jax.training import step
from dbdc_jax.workdir import train_state

K, B, SIZE, C = 2, 4, 24, 5
STEPS = 10


def make_config():
  config = abdomen.get_config(None)
  config.modalities = 'ct,t2'
  config.model.width = 3
  config.model.embedding_dim = 8
  config.augment.patch_size = 16
  config.mpcl.stride = 2
  config.batch_size = B
  return config


def make_batch(samples=range(B)):
  """The same slices on any number of devices; background is unevenly spread.

  In ten steps of most seeds some unit stands so near the kink of its leaky ReLU
  that rounding decides on which side. Of four seeds (0, 1001 to 1003) this is
  the one in which none does. If another jax rounds otherwise, step 1 and the
  other seeds tell a fault from such a unit.
  """
  rng = np.random.default_rng(1002)
  index = np.arange(K * B, dtype=np.int32).reshape(K, B)
  draw = lambda: rng.integers(0, 65536, (K, B, SIZE, SIZE)).astype(np.uint16)
  label = rng.integers(0, C, (K, B, SIZE, SIZE)).astype(np.uint8)
  label[:, 0] = 0
  whole = {
    'labeled': {'image': draw(), 'label': label, 'index': index},
    'unlabeled': {'image': draw(), 'index': index},
  }
  return jax.tree.map(lambda x: x[:, samples.start : samples.stop], whole)


def make_signals(active=True, **reading):
  return methods.Signals(
    weights=jnp.array([1.3, 0.7]),
    ramp=jnp.float32(0.5),
    active=jnp.asarray(active),
    present=jnp.ones((K, C), bool),
    consistent=jnp.ones(K, bool),
    reading=jax.tree.map(jnp.asarray, methods.Reading(**reading)),
  )


def plain_config(**fields):
  """Without what rounding would steer: dropout and noise."""
  config = make_config()
  config.update_from_flattened_dict(fields)
  config.dc.dropout = 0.0
  config.augment.noise_probability = 0.0
  config.dtype = 'float32'
  return config


def run(devices: str, fields=(), **reading):
  """Ten steps.

  Args:
    devices: 'one', or 'all' of all processes by the train loop's own step.
    fields: pairs of the config's fields and values.
    **reading: of the signals.

  Returns:
    After step 1 and step 10: gradients before Adam, memory (statistics,
    prototypes), sums for MAW and its weights, metrics; flat, by name.
  """
  problem = methods.resolve(plain_config(**dict(fields)))
  method = build(problem.config)
  state = train_state.init_state(method, problem)
  signals = make_signals(**reading)
  if devices == 'all':
    step_fn = step.make_step(method)
    batch = parallel.shard(make_batch(parallel.own_samples(B)))
    signals = parallel.place(signals)
  else:
    device = jax.local_devices()[0]
    step_fn = jax.pmap(
      step.step_function(method),
      axis_name=parallel.AXIS,
      in_axes=(None, 0, None, None),
      out_axes=None,
      devices=[device],
    )
    batch = jax.tree.map(lambda x: x[None], make_batch())
    state, signals = jax.device_put((state, signals), device)
  plan = step.Plan(seed=np.int32(0), learning_rate=np.float32(1e-3))
  out = {}
  for number in range(1, STEPS + 1):
    # One step under way at a time: the devices share this machine's threads.
    state, metrics = jax.block_until_ready(step_fn(state, batch, signals, plan))
    if number in (1, STEPS):
      dice = losses.pooled_dice(state.dice_counts, signals.present)
      maw = weighting.update(weighting.update(state.weighting, dice), dice / 2)
      seen = {
        'gradients': state.opt_state,
        'memory': state.memory,
        'dice': dice,
        'weights': weighting.weights(maw),
        'metrics': metrics,
      }
      for path, leaf in jax.tree_util.tree_leaves_with_path(seen):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        out[f'{number}/{name}'] = np.asarray(leaf)
  return out


def build(config):
  """The method, whose gradients leave the step as its optimizer's state.

  By plain descent: Adam would blow rounding up where the true gradient is 0,
  and hide a factor.
  """
  zeros = lambda params: jax.tree.map(jnp.zeros_like, params)
  kept = optax.GradientTransformation(zeros, lambda g, s, p=None: (g, g))
  method = methods.build(config)
  return method._replace(recipe=method.recipe._replace(tx=kept))


def differences(a, b):
  """Largest difference of two runs, by step and kind.

  Of gradients relative to their whole norm; of everything else absolute, of
  values above 1 (variances, counts of pixels) relative.
  """
  assert a.keys() == b.keys()
  worst = {}
  for number in (1, STEPS):
    names = [n for n in a if n.startswith(f'{number}/gradients')]
    norm = np.sqrt(sum(np.sum(np.square(a[n])) for n in names))
    worst[f'{number}/gradients'] = max(
      np.abs(a[n] - b[n]).max() / norm for n in names
    )
  for name in a:
    kind = '/'.join(name.split('/')[:2])
    if 'gradients' not in name:
      x, y = a[name].astype(float), b[name].astype(float)
      gap = (np.abs(x - y) / np.maximum(1.0, np.abs(x))).max()
      worst[kind] = max(worst.get(kind, 0.0), gap)
  return worst


if __name__ == '__main__':
  coordinator, count, number, target = sys.argv[1:]
  parallel.start(coordinator, int(count), int(number))
  found = run('all')
  if parallel.is_lead():
    np.savez(target, **found)
