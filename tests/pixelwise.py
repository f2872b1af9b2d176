"""A network of one pixel at a time: what a method makes of it, a loop can too.

Stands in for the U-Net of `networks`: logits are `ModulationBank(image) * w +
b`, compiled in a moment.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import abdomen
from dbdc_jax import methods
from dbdc_jax.methods.common import networks, passes
from dbdc_jax.models.modulation import ModulationBank
from dbdc_jax.ops import augment
from dbdc_jax.runtime import parallel

# The least that a discriminator can look at is 24 pixels.
K, B, SIZE, C, PATCH = 2, 4, 28, 5, 24


class Pixels(nn.Module):
  """With the fields of `UNet`."""

  num_classes: int
  num_modalities: int
  width: int = 1
  grouped: bool = False
  dtype: jnp.dtype = jnp.float32
  modulation: str = 'all'

  @nn.compact
  def __call__(self, x, modality, train):
    shape = (self.num_classes,)
    w = self.param('w', nn.initializers.normal(0.8), shape)
    b = self.param('b', nn.initializers.normal(0.4), shape)
    x = ModulationBank(self.num_modalities, grouped=self.grouped)(
      x, modality, train
    )
    return x * w + b


def config(name: str, **fields):
  """One network for CT and T2, small; `a__b=c` sets the field a.b."""
  made = abdomen.get_config(f'method={name}')
  made.modalities, made.joint, made.batch_size = 'ct,t2', 'true', B
  made.augment.patch_size = PATCH
  made.dtype = 'float32'
  made.update_from_flattened_dict(
    {key.replace('__', '.'): value for key, value in fields.items()}
  )
  return made


def build(monkeypatch, made) -> methods.Method:
  monkeypatch.setattr(networks, 'UNet', Pixels)
  return methods.build(made)


def batch(seed: int = 0, count: int = B):
  rng = np.random.default_rng(seed)
  index = np.arange(K * count, dtype=np.int32).reshape(K, count)
  shape = (K, count, SIZE, SIZE)
  image = lambda: rng.integers(0, 65536, shape).astype(np.uint16)
  label = rng.integers(0, C, shape).astype(np.uint8)
  label[:, 0] = 0
  found = {
    'labeled': {'image': image(), 'label': label, 'index': index},
    'unlabeled': {'image': image(), 'index': index},
  }
  return jax.tree.map(jnp.asarray, found)


def signals(**fields) -> methods.Signals:
  full = methods.full_signals(np.ones((K, C), bool), np.ones(K, bool))
  return full._replace(ramp=jnp.float32(0.5), **fields)


def step(made, signals) -> networks.Step:
  """A step of a config's networks that has no batch."""
  return networks.Step(networks.of_unet(made, 0.0), None, None, signals)


def views(made, batch, key):
  """The views that a step of this key has, as NumPy arrays; and their keys."""
  settings = augment.Augmentation(**made.augment)
  net = networks.Networks(None, None, settings, made, None, None)
  draw = jax.jit(
    lambda batch: passes.views(networks.Step(net, batch, key, None))
  )
  found = draw(batch)
  return (*map(np.asarray, found[:3]), found.keys)


def passed(params, *images: np.ndarray) -> list[np.ndarray]:
  """Logits `[K, n, H, W, C]` of one pass in train mode over all images."""
  w, b = np.asarray(params['w'], float), np.asarray(params['b'], float)
  bank = params['ModulationBank_0']
  everything = np.concatenate(images, 1).astype(float)
  out = np.zeros((*everything.shape[:-1], len(w)))
  for k, mine in enumerate(everything):
    z = (mine - mine.mean()) / np.sqrt(mine.var() + 1e-5)
    z = z * np.asarray(bank['scale'][k]) + np.asarray(bank['bias'][k])
    out[k] = z * w + b
  ends = np.cumsum([x.shape[1] for x in images])[:-1]
  return np.split(out, ends, 1)


def softmax(z: np.ndarray) -> np.ndarray:
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[K]`, pixel by pixel."""
  p = softmax(z)
  out = []
  for k in range(len(p)):
    flat, mine = p[k].reshape(-1, p.shape[-1]), labels[k].ravel()
    out.append(
      -np.mean([np.log(q[y]) for q, y in zip(flat, mine, strict=True)])
    )
  return np.array(out)


def dice(z: np.ndarray, labels: np.ndarray, power: int = 2) -> np.ndarray:
  """`[K]`, class by class."""
  p, out = softmax(z), []
  for k in range(len(p)):
    terms = []
    for c in range(p.shape[-1]):
      q, g = p[k, ..., c], labels[k] == c
      below = (q**power).sum() + g.sum() + 1e-5
      terms.append(1 - (2 * q[g].sum() + 1e-5) / below)
    out.append(np.mean(terms))
  return np.array(out)


def divergence(z, w):
  """Symmetric, pixel by pixel."""
  p, q = (softmax(x).reshape(-1, x.shape[-1]) for x in (z, w))
  pairs = zip(p, q, strict=True)
  both = [
    np.sum(a * np.log(a / b)) / 2 + np.sum(b * np.log(b / a)) / 2
    for a, b in pairs
  ]
  return np.mean(both)


def sorted_share(z, share):
  """Which pixels the most confident share of each class is, by sorting."""
  p = softmax(z)
  labels, best = p.argmax(-1), p.max(-1)
  kept = np.zeros(labels.shape, bool)
  for c in range(z.shape[-1]):
    mine = np.sort(best[labels == c])[::-1]
    if len(mine):
      limit = mine[int(np.ceil(share * len(mine))) - 1]
      kept |= (labels == c) & (best >= limit)
  return labels, kept


def evaluate(method, params, memory, given, key, told):
  """Loss, metrics, new memory and gradients of parameters and memory."""
  given = jax.tree.map(jnp.asarray, given)
  floats = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  leaves, tree = jax.tree.flatten(memory)

  @jax.jit
  def run(params, leaves):
    def loss(params, moving):
      all_leaves = iter(moving)
      whole = [next(all_leaves) if floats(x) else x for x in leaves]
      memory = jax.tree.unflatten(tree, whole)
      return method.loss(params, memory, given, key, told)

    moving = [x for x in leaves if floats(x)]
    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, moving)

  (value, (new, metrics)), gradients = run(params, leaves)
  return value, metrics, new, gradients


def largest(tree) -> float:
  """Largest absolute value of a tree's arrays."""
  values: Sequence = jax.tree.leaves(tree)
  return max(float(np.abs(x).max()) for x in values)


def four_equal_one(
  made,
  count: int = 4,
  told=None,
  tolerance: float = 2e-5,
  with_gradients: bool = True,
):
  """Holds gradients, memory and metrics of four devices against one's.

  Gradients are held against the norm of them all.
  """
  given, key = batch(count=count), jax.random.key(5)
  told = signals() if told is None else told
  method = methods.build(made)
  params, memory = jax.jit(method.init)(jax.random.key(0))

  def run(method):
    def step(state, given, told, plan):
      if not with_gradients:
        value, aux = method.loss(*state, given, key, told)
        # The state's memory is given away: it has to go somewhere.
        return state, (value, aux)
      (value, aux), gradients = jax.value_and_grad(method.loss, has_aux=True)(
        *state, given, key, told
      )
      return gradients, (value, aux)

    return step

  one = jax.jit(run(method))((params, memory), given, told, None)
  spread = run(methods.build(made))

  def averaged(*args):
    gradients, aux = spread(*args)
    return parallel.mean_gradients(gradients), aux

  state, told = parallel.place(((params, memory), told))
  four = parallel.pmap_step(averaged)(state, parallel.shard(given), told, None)
  norm = 0.0
  if with_gradients:
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(one[0])))
  for least, x, y in zip((norm, 0.0), one, four, strict=True):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
      scale = max(1.0, least, float(np.abs(a).max()))
      np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)
