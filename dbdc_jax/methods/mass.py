"""MASS: modality-agnostic multi-atlas registration (the paper's Table I).

Chen, Zhou, Zhang et al., "MASS: modality-collaborative semi-supervised
segmentation by exploiting cross-modal consistency from unpaired CT and MRI
images" (2022). No network segments: labelled volumes (atlases) are registered
to a volume, and their moved labels vote. Two modalities i and j, whole volumes,
a registration network F (`models/registration.py`) with an encoder for each:

  f_s = F(a_i -> t),  f_d = F(a_j -> t),  r = a_i o f_s,  q = a_j o f_d
  f_2 = F(r -> t)
  loss = smooth(f_s) + smooth(f_d) + smooth(f_2)         mean squared slopes
       + 1 - mean LNCC(r, t) + mean (r - t)^2         `ops/local_correlation.py`
       + contrast(r, q) + 1 - Dice(y_i o f_s, y_j o f_d)

for an unlabelled volume t of modality i and atlases a with labels y. `contrast`
compares the channels of the encoder's coarsest features of r and q: each should
find its own among all (cross entropy of 2w x 2w cosines). A volume is segmented
by each atlas of its modality, moved twice (f_s, then f_2); votes are weighted
by the softmax over atlases of the LNCC at each voxel.

As in the official code the last term has no gradient, so labels teach nothing:
it is taken there of hard label maps that are detached from the graph, here of
one-hot maps that are moved linearly. (With its gradient the two moved labels
learn to be alike instead of like the target.) The official code normalises the
contrasted vectors along the channels' axis instead of each vector. Readings:
flows start near 0; volumes are not augmented; each step takes `mass.volumes`
targets of both modalities, not one of either.
All losses act from the first step: no ramp, no warm-up. `recipe=own` is Adam
with the constant rate 3e-4. The training DSC is that of the two moved labels:
an unlabelled target has none to be compared with.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import ml_collections
import optax

from data.task import to_float
from dbdc_jax.methods.common import base, networks, passes, problem
from dbdc_jax.models import registration
from dbdc_jax.ops import losses, optimizer
from dbdc_jax.ops.local_correlation import local_correlation
from dbdc_jax.ops.shapes import PerModality
from dbdc_jax.runtime import over_devices
from dbdc_jax.runtime.precision import EXACT, compute_dtype

_OWN_RATE = 3e-4
# Of n volumes of each modality.
Volumes = Float[Array, 'K n D H W c']
Flows = Float[Array, 'K n D H W 3']


class Networks(NamedTuple):
  """The parts of the registration, and what they work on.

  Attributes:
    encoder: one for each modality (`passes.PAIR`).
    decoder: shared.
    head: of the contrast.
    shape: (D, H, W) of a volume.
    classes: C.
  """

  encoder: registration.Encoder
  decoder: registration.Decoder
  head: registration.Head
  shape: tuple[int, int, int]
  classes: int


def build(config: ml_collections.ConfigDict) -> base.Method:
  """Builds the method; see `base.Method`.

  Raises:
    ValueError: other than two modalities, a network for each is asked for, or
      a grid that cannot be halved three times.
  """
  asked = problem.resolve(config)
  why = 'volumes of two modalities are registered to each other'
  base.check_pair(config, len(asked.modalities), why)
  size, width = config.data.slice_size, config.model.width
  if config.mass.depth < 8 or config.mass.depth % 8 or size % 8:
    raise ValueError(
      f'mass: a grid of {config.mass.depth} x {size} x {size} voxels cannot be'
      ' halved three times; mass.depth and data.slice_size must divide by 8'
    )
  dtype = compute_dtype(config.dtype)
  nets = Networks(
    registration.Encoder(width, dtype),
    registration.Decoder(width, dtype),
    registration.Head(width, dtype),
    (config.mass.depth, size, size),
    len(asked.classes),
  )
  constant = optimizer.scale_by_left(-config.optimizer.power)
  own_tx = optax.chain(optimizer.build(), constant)
  return networks.method(
    nets,
    init=_init,
    loss=_loss,
    predict=_vote,
    counted=_counted,
    traits=base.Traits(volumes=config.mass.depth, vote=True),
    recipe=base.recipe(config, own_tx, _OWN_RATE)._replace(
      batch_size=config.mass.volumes, batch_field='mass.volumes'
    ),
  )


def _init(nets: Networks, key: jax.Array):
  """Parameters, and nothing to remember."""
  first, second, k_decoder, k_head = jax.random.split(key, 4)
  volume = jnp.zeros((1, *nets.shape, 1))
  encoders = {
    name: nets.encoder.init(k, volume)['params']
    for name, k in zip(passes.PAIR, (first, second), strict=True)
  }
  encode = lambda x: nets.encoder.apply({'params': encoders['net1']}, x)
  features = jax.tree.map(jnp.zeros_like, jax.eval_shape(encode, volume))
  params = {
    'encoder': encoders,
    'decoder': nets.decoder.init(k_decoder, features, features)['params'],
    'head': nets.head.init(k_head, features[-1])['params'],
  }
  return params, {}


def _encode(nets, params, volumes):
  """Features of `volumes [K, n, ...]`, each modality by its own encoder."""
  found = [
    nets.encoder.apply({'params': params['encoder'][name]}, mine)
    for name, mine in zip(passes.PAIR, volumes, strict=True)
  ]
  return jax.tree.map(lambda *x: jnp.stack(x), *found)


def _decode(nets, params, source, target):
  """Flows `[K, n, D, H, W, 3]` from features `[K, n, ...]` of both."""
  flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
  flow = nets.decoder.apply(
    {'params': params['decoder']}, flat(source), flat(target)
  )
  return flow.reshape(len(source[0]), -1, *flow.shape[1:])


def _moved(volumes: Volumes, flow: Flows) -> Volumes:
  """`registration.warp` of all."""
  return jax.vmap(registration.warp)(volumes, flow)


def smoothness(flow: Flows) -> PerModality:
  """Mean squared difference of neighbours, mean over the axes.

  Args:
    flow: in voxels.

  Returns:
    0 for a translation.
  """
  slopes: Any = sum(
    losses.mean(jnp.square(jnp.diff(flow, axis=axis))) for axis in (2, 3, 4)
  )
  return slopes / 3


def contrast(
  a: Float[Array, '*axes M d'], b: Float[Array, '*axes M d']
) -> Float[Array, '*axes']:
  """How hard it is to find each vector's partner.

  Args:
    a: unit vectors.
    b: their partners.

  Returns:
    Mean over the M of the cross entropy, among all of `b` (eq 5 to 7 of
    the published method; no temperature).
  """
  log_p = jax.nn.log_softmax(
    jnp.einsum('...id,...jd->...ij', a, b, precision=EXACT)
  )
  return -jnp.mean(jnp.diagonal(log_p, axis1=-2, axis2=-1), -1)


def overlap(
  p: Float[Array, 'K n D H W C'],
  q: Float[Array, 'K n D H W C'],
  present: Bool[Array, 'K C'],
) -> PerModality:
  """Dice of two soft label maps, per modality.

  Args:
    p: in [0, 1].
    q: the same.
    present: classes to compare.

  Returns:
    Mean over classes, as `losses.dice`: squared denominator.
  """
  axes = (1, 2, 3, 4)
  sums = jnp.stack([jnp.sum(x, axes) for x in (p * q, p * p + q * q)])
  both, sizes = over_devices.total(sums)
  dice = (2 * both + losses.DICE_EPSILON) / (sizes + losses.DICE_EPSILON)
  count = jnp.maximum(present.sum(-1), 1)
  return jnp.sum(jnp.where(present, dice, 0.0), -1) / count


def _loss(step, params, memory):
  """The loss, with memory and metrics; see `base.Method`. Nothing is drawn."""
  nets, batch, signals = step.net, step.batch, step.signals
  if 'unlabeled' not in batch:
    raise ValueError(
      'mass: atlases are registered to unlabelled training scans, and there are'
      ' none; choose a --config.labeled_fraction below 1'
    )
  labeled = batch['labeled']
  atlas = to_float(labeled['image'])[..., None]
  target = to_float(batch['unlabeled']['image'])[..., None]
  labels = losses.one_hot(labeled['label'], nets.classes).astype(jnp.float32)
  # The same, of the other modality: [K, n, ...].
  other, other_labels = atlas[::-1], labels[::-1]
  count = target.shape[1]
  encoded = _encode(nets, params, jnp.concatenate([target, atlas], 1))
  part = lambda tree, which: jax.tree.map(lambda x: x[:, which], tree)
  of_target = part(encoded, slice(count))
  of_atlas = part(encoded, slice(count, None))
  join = lambda x, y: jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], 1), x, y
  )
  flip = lambda tree: jax.tree.map(lambda x: x[::-1], tree)
  # Both of a target's registrations at once.
  flows = _decode(
    nets, params, join(of_atlas, flip(of_atlas)), join(of_target, of_target)
  )
  same, cross = jnp.split(flows, 2, 1)
  moved, moved_other = _moved(atlas, same), _moved(other, cross)
  of_moved = _encode(nets, params, jnp.concatenate([moved, moved_other], 1))
  again = _decode(nets, params, part(of_moved, slice(count)), of_target)
  coarse = of_moved[-1]
  vectors = nets.head.apply(
    {'params': params['head']}, coarse.reshape(-1, *coarse.shape[2:])
  ).reshape(2, 2, count, 2 * nets.head.width, -1)  # [K, which, n, M, d]
  alike = jax.vmap(local_correlation)(moved[..., 0], target[..., 0])
  still = jax.lax.stop_gradient((same, cross))
  votes, other_votes = map(_moved, (labels, other_labels), still)
  present = jnp.all(signals.present, 0, keepdims=True)
  present = jnp.broadcast_to(present, signals.present.shape)
  terms = {
    'smooth': smoothness(same),
    'smooth_cross': smoothness(cross),
    'smooth_again': smoothness(again),
    'correlation': 1 - losses.mean(alike),
    'difference': losses.mean(jnp.square(moved - target)),
    'contrast': losses.mean(contrast(vectors[:, 0], vectors[:, 1])),
    'cross_dice': 1 - overlap(votes, other_votes, present),
  }
  counts = losses.dice_counts(votes, jnp.argmax(other_votes, -1))
  value = jnp.sum(signals.weights * sum(terms.values()))
  return value, (memory, {**terms, 'dice_counts': counts})


def _counted(nets, params, memory, volume):
  """One registration, without the head of the contrast; see `base.Method`."""
  del memory
  features = _encode(nets, params, jnp.stack([volume, volume]))
  source, target = (
    jax.tree.map(lambda x, k=k: x[k : k + 1], features) for k in range(2)
  )
  _decode(nets, params, source, target)
  return {name: params[name] for name in ('encoder', 'decoder')}


def _vote(nets, params, memory, atlas, labels, volume, modality):
  """What one atlas says of a volume; see `base.Method.predict`."""
  del memory
  first, second = (params['encoder'][name] for name in passes.PAIR)
  encoder = jax.tree.map(
    lambda a, b: jnp.where(modality == 0, a, b), first, second
  )
  encode = lambda x: nets.encoder.apply({'params': encoder}, x)
  image, target = (to_float(v)[None, ..., None] for v in (atlas, volume))
  of_target, labels = encode(target), labels[None].astype(jnp.int32)
  for _ in range(2):
    flow = nets.decoder.apply(
      {'params': params['decoder']}, encode(image), of_target
    )
    image = registration.warp(image, flow)
    labels = registration.warp_labels(labels, flow)
  weight = local_correlation(image[..., 0], target[..., 0])
  return losses.one_hot(labels[0], nets.classes), weight[0]
