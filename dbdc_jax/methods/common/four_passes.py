"""The four passes of a DBDC step over three views of its slices.

All passes with a gradient are one batch, P of them one behind the other: a
convolution then has P times the images to fill a device with. Each pass is
normalised by its own statistics (`ModulationBank.passes`); what it found moves
the running statistics afterwards, in order.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dbdc_jax.methods.common import supervision
from dbdc_jax.models import modulation
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet, drop_bottleneck
from dbdc_jax.ops import augment, losses


class Networks(NamedTuple):
  """The modules and settings that a step needs."""

  unet: UNet
  projector: Projector
  config: ml_collections.ConfigDict
  settings: augment.Augmentation
  labelable: np.ndarray  # [K, C] bool, see `Task.labelable`
  axis_name: str | None

  @property
  def num_modalities(self) -> int:
    """K."""
    return self.labelable.shape[0]

  @property
  def num_classes(self) -> int:
    """C."""
    return self.labelable.shape[1]


class Views(NamedTuple):
  """P passes, grouped by modality; the labelled one is the first.

  Attributes:
    logits: `[P, K, b, H, W, C]`.
    embeddings: `[P, K, n, D]`, n = b * H/stride * W/stride; None without MPCL.
  """

  logits: jax.Array
  embeddings: jax.Array | None


class Passes(NamedTuple):
  """What the passes of a step left behind.

  Attributes:
    names: of the passes with a gradient; 'sup' is the first.
    views: of them.
    pseudo: `[K, b, H, W]` pseudo-labels, None without unlabelled slices.
    moments: of the passes that move running statistics, in order.
  """

  names: tuple[str, ...]
  views: Views
  pseudo: jax.Array | None
  moments: list[Any]


def variables(params: Any, memory: Any) -> dict[str, Any]:
  """What the U-Net is applied with."""
  return {'params': params['unet'], 'modulation': memory['modulation']}


def _flat(x):
  """`[K, b, ...]` to `[K * b, ...]`."""
  return x.reshape(-1, *x.shape[2:])


def _apply(nets, params, memory, method, inputs, passes):
  """Runs a part of the U-Net in train mode on a batch of passes.

  Returns:
    What the part returns, and the `Moments` of each of its normalisations.
  """
  images = jax.tree.leaves(inputs)[0].shape[0]
  ids = jnp.arange(nets.num_modalities, dtype=jnp.int32)
  each = images // (passes * nets.num_modalities)
  modality = jnp.tile(jnp.repeat(ids, each), passes)
  out, found = nets.unet.clone(passes=passes).apply(
    variables(params, memory),
    inputs,
    modality,
    True,
    method=method,
    mutable=['moments'],
  )
  return out, found['moments']


def _decode(nets, params, memory, features, passes, project):
  """Decoder, head and (if asked) projector: `Views` and moments."""
  taps, found = _apply(nets, params, memory, 'decode', features, passes)
  logits, more = _apply(nets, params, memory, 'head', taps[-1], passes)
  count = passes * nets.num_modalities
  ids = jnp.tile(jnp.arange(nets.num_modalities), passes)
  logits = losses.only_labelable(
    logits.reshape(count, -1, *logits.shape[1:]), nets.labelable, ids
  )
  logits = logits.reshape(passes, -1, *logits.shape[1:])
  embeddings = None
  if project and nets.config.mpcl.enabled:
    embeddings = nets.projector.apply(
      {'params': params['projector']}, taps, nets.config.mpcl.stride
    )
    embeddings = embeddings.reshape(
      passes, nets.num_modalities, -1, embeddings.shape[-1]
    )
  return Views(logits, embeddings), found | more


def _moments(found, passes, index):
  """The moments of one of the passes, of each normalisation."""
  rows = lambda x: x.reshape(passes, -1, *x.shape[1:])[index]
  return jax.tree.map(rows, found)


def follow(statistics: Any, found: Any) -> Any:
  """Moves every normalisation's running statistics, see `modulation.follow`.

  Args:
    statistics: collection `modulation` of the U-Net.
    found: the `Moments` of the same normalisations.
  """
  if 'count' in statistics:
    return modulation.follow(statistics, found['found'])
  return {k: follow(v, found[k]) for k, v in statistics.items()}


def run(nets, params, memory, images, signals, k_drop):
  """Runs all passes.

  Args:
    nets: modules and settings.
    params: parameters.
    memory: memory.
    images: 'labeled' and, if there are unlabelled slices, 'weak' and 'strong':
      `[K * b, H, W, 1]` each.
    signals: what the loop passed in.
    k_drop: `[K * b]` keys of the unlabelled samples.

  Returns:
    `Passes`.
  """
  dc, names = nets.config.dc, ['sup']
  if 'weak' in images:
    names += ['fpc'] * dc.fpc + ['ipc'] * dc.ipc
  source = {'sup': 'labeled', 'fpc': 'weak', 'ipc': 'strong'}
  count = len(names)
  inputs = jnp.concatenate([images[source[name]] for name in names])
  features, encoded = _apply(nets, params, memory, 'encode', inputs, count)
  pseudo, between = None, []
  if 'weak' in images:
    # The pseudo-label: hard, without gradient, in train mode like all passes.
    fixed = lax.stop_gradient(params)
    if 'fpc' in names:
      at = names.index('fpc')
      weak = jax.tree.map(lambda x: jnp.split(x, count)[at], features)
      found = _moments(encoded, count, at)
      *skips, m = features
      # Only the weak view's bottleneck is dropped.
      parts = list(jnp.split(m, count))
      parts[at] = drop_bottleneck((parts[at],), k_drop, dc.dropout)[0]
      features = (*skips, jnp.concatenate(parts))
    else:
      weak, found = _apply(nets, fixed, memory, 'encode', images['weak'], 1)
    weak = lax.stop_gradient(weak)
    view, decoded = _decode(nets, fixed, memory, weak, 1, project=False)
    between = [found | decoded]
    pseudo = supervision.pseudo_labels(view.logits[0], signals.present)
  views, decoded = _decode(nets, params, memory, features, count, True)
  of = lambda name: _moments(encoded | decoded, count, names.index(name))
  strong = [of('ipc')] if 'ipc' in names else []
  moments = [of('sup'), *between, *strong]
  return Passes(tuple(names), views, pseudo, moments)


def augmented(nets, batch, key):
  """The slices as the network sees them: images, labels and dropout's keys."""
  k_labeled, k_unlabeled = jax.random.split(key)
  labeled = batch['labeled']
  keys = augment.sample_keys(k_labeled, _flat(labeled['index']))
  seen, labels = augment.labeled_view(
    _flat(labeled['image']), _flat(labeled['label']), keys, nets.settings
  )
  images, k_drop = {'labeled': seen}, None
  if 'unlabeled' in batch and (nets.config.dc.ipc or nets.config.dc.fpc):
    k_view, k_drop = jax.random.split(k_unlabeled)
    unlabeled = batch['unlabeled']
    index = _flat(unlabeled['index'])
    images['weak'], images['strong'] = augment.unlabeled_views(
      _flat(unlabeled['image']),
      augment.sample_keys(k_view, index),
      nets.settings,
    )
    k_drop = augment.sample_keys(k_drop, index)
  labels = labels.reshape(*labeled['label'].shape[:2], *labels.shape[1:])
  return images, labels, k_drop
