"""DBDC: Double Bank Dual Consistency (the paper's equations 17 to 23).

One U-Net for all modalities; its normalisation is the modulation bank (MLMB),
its decoder feeds the projector whose embeddings train, and are trained by, the
prototype bank (MLPB, `prototypes.py`). Four passes make a step:

  labelled   encoder, decoder, head, projector         supervision (eq 21)
  weak       encoder; decoder and head, no gradient    pseudo-label Y
  dropout    the weak encoder's features, bottleneck   feature consistency
             dropped; decoder, head, projector           (eq 19)
  strong     encoder, decoder, head, projector         image consistency (18)

Running statistics are updated by labelled, weak and strong, in this order.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import numpy as np

from data import task_file
from dbdc_jax import augment, losses, prototypes, supervision
from dbdc_jax.methods import base
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet, drop_bottleneck
from dbdc_jax.precision import compute_dtype


class _Networks(NamedTuple):
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


class _View(NamedTuple):
  """One pass, grouped by modality: logits `[K, b, H, W, C]`, embeddings."""

  logits: jax.Array
  embeddings: jax.Array | None  # [K, n, D], n = b * H/stride * W/stride


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`.

  Raises:
    ValueError: an unknown `mpcl.assignment`.
  """
  if config.mpcl.assignment not in ('sinkhorn', 'label'):
    raise ValueError(
      f'mpcl.assignment={config.mpcl.assignment!r}: choose sinkhorn or label'
    )
  task = task_file.find(config.task)
  labelable = task.labelable(task.select(config.modalities))
  num_modalities, num_classes = labelable.shape
  dtype = compute_dtype(config.dtype)
  unet = UNet(
    num_classes=num_classes,
    num_modalities=num_modalities,
    width=config.model.width,
    extra_head=True,
    axis_name=axis_name,
    grouped=True,
    dtype=dtype,
    modulation=config.model.modulation,
  )
  # Prediction takes any mixture of modalities: no grouped layout.
  predictor = unet.clone(grouped=False, axis_name=None)
  nets = _Networks(
    unet=unet,
    projector=Projector(dim=config.model.embedding_dim, dtype=dtype),
    config=config,
    settings=augment.Augmentation(**config.augment),
    labelable=labelable,
    axis_name=axis_name,
  )

  def predict(params, memory, images, modality):
    variables = _variables(params, memory)
    logits = predictor.apply(variables, images, modality, False)
    return losses.only_labelable(logits, labelable, modality)

  return base.Method(
    init=functools.partial(_init, nets, predictor),
    loss=functools.partial(_loss, nets),
    predict=predict,
    update=base.keep_memory,
    joint=base.is_joint(config, True),
    unlabeled=config.dc.ipc or config.dc.fpc,
    trained=functools.partial(_trained, nets, predictor),
    weighted=True,
  )


def _variables(params, memory):
  return {'params': params['unet'], 'modulation': memory['modulation']}


def _with_taps(net, images, modality):
  """Logits, and what the projector takes."""
  taps = net.decode(net.encode(images, modality, False), modality, False)
  return net.head(taps[-1], modality, False), taps


def _trained(nets, predictor, params, memory, image):
  """The U-Net and, if it is on, the projector; see `base.Method`."""
  variables, ids = _variables(params, memory), jnp.zeros(1, jnp.int32)
  _, taps = predictor.apply(variables, image, ids, method=_with_taps)
  if nets.config.mpcl.enabled:
    nets.projector.apply({'params': params['projector']}, taps)
  return params


def _init(nets, predictor, key):
  """Parameters and memory before the first step."""
  k_unet, k_projector = jax.random.split(key)
  patch = nets.settings.patch_size
  image = jnp.zeros((1, patch, patch, 1))
  modality = jnp.zeros(1, jnp.int32)
  variables = predictor.init(k_unet, image, modality, False)
  params = {'unet': variables['params']}
  memory = {'modulation': variables['modulation']}
  if nets.config.mpcl.enabled:
    width, half, quarter = nets.config.model.width, patch // 2, patch // 4
    taps = (
      jnp.zeros((1, quarter, quarter, 8 * width)),
      jnp.zeros((1, half, half, 4 * width)),
      jnp.zeros((1, patch, patch, 2 * width)),
    )
    params['projector'] = nets.projector.init(k_projector, taps)['params']
    # The LayerNorm of the prototype logits, shared by the modalities.
    params['prototype_norm'] = {
      'scale': jnp.ones(nets.num_classes),
      'bias': jnp.zeros(nets.num_classes),
    }
    memory['prototypes'] = prototypes.init(
      nets.num_modalities, nets.num_classes, nets.config.model.embedding_dim
    )
  return params, memory


def _flat(x):
  """`[K, b, ...]` to `[K * b, ...]`."""
  return x.reshape(-1, *x.shape[2:])


def _apply(nets, params, statistics, method, inputs, images_per_modality):
  """Runs a part of the U-Net in train mode; returns its new statistics."""
  ids = jnp.arange(nets.num_modalities, dtype=jnp.int32)
  modality = jnp.repeat(ids, images_per_modality)
  variables = {'params': params['unet'], 'modulation': statistics}
  out, new = nets.unet.apply(
    variables, inputs, modality, True, method=method, mutable=['modulation']
  )
  return out, new['modulation']


def _decode(nets, params, statistics, features, count, project):
  """Decoder, head and (if asked) projector: a `_View` and statistics."""
  taps, statistics = _apply(nets, params, statistics, 'decode', features, count)
  logits, statistics = _apply(nets, params, statistics, 'head', taps[-1], count)
  grouped = lambda x: x.reshape(nets.num_modalities, count, *x.shape[1:])
  ids = jnp.arange(nets.num_modalities)
  logits = losses.only_labelable(grouped(logits), nets.labelable, ids)
  embeddings = None
  if project and nets.config.mpcl.enabled:
    embeddings = nets.projector.apply(
      {'params': params['projector']}, taps, nets.config.mpcl.stride
    )
    embeddings = embeddings.reshape(
      nets.num_modalities, -1, embeddings.shape[-1]
    )
  return _View(logits, embeddings), statistics


def _strided(nets, labels):
  """Labels `[K, b, H, W]` at the embeddings' pixels: `[K, n]`."""
  stride = nets.config.mpcl.stride
  return labels[:, :, ::stride, ::stride].reshape(nets.num_modalities, -1)


def _mpcl(nets, params, bank, view, labels, present, name):
  """The enabled MPCL terms of a view, each already divided as in eq 12."""
  if view.embeddings is None:
    return {}
  terms = prototypes.mpcl_terms(
    bank,
    view.embeddings,
    _strided(nets, labels),
    present,
    **params['prototype_norm'],
    temperature=nets.config.mpcl.temperature,
    axis_name=nets.axis_name,
  )
  share = nets.config.mpcl.delta / 4
  return {
    f'{name}_{term}': share * value
    for term, value in terms.items()
    if nets.config.mpcl[term]
  }


def _labeled(nets, params, statistics, bank, batch, key, signals):
  """L_sup (eq 21): its terms, the view, its labels and new statistics."""
  count = batch['image'].shape[1]
  keys = augment.sample_keys(key, _flat(batch['index']))
  images, labels = augment.labeled_view(
    _flat(batch['image']), _flat(batch['label']), keys, nets.settings
  )
  features, statistics = _apply(
    nets, params, statistics, 'encode', images, count
  )
  view, statistics = _decode(nets, params, statistics, features, count, True)
  labels = labels.reshape(view.logits.shape[:-1])
  terms = supervision.labeled_terms(
    view.logits, labels, signals, nets.axis_name
  )
  terms |= _mpcl(nets, params, bank, view, labels, signals.present, 'sup')
  return terms, view, labels, statistics


def _unlabeled(nets, params, statistics, bank, batch, key, signals):
  """L_ipc and L_fpc (eq 18, 19): terms, strong view, Y, new statistics."""
  dc, count = nets.config.dc, batch['image'].shape[1]
  k_view, k_drop = jax.random.split(key)
  index = _flat(batch['index'])
  weak_images, strong_images = augment.unlabeled_views(
    _flat(batch['image']), augment.sample_keys(k_view, index), nets.settings
  )
  features, statistics = _apply(
    nets, params, statistics, 'encode', weak_images, count
  )
  # The pseudo-label: hard, without gradient, in train mode like all passes.
  weak, after_weak = _decode(
    nets,
    lax.stop_gradient(params),
    statistics,
    lax.stop_gradient(features),
    count,
    project=False,
  )
  pseudo = supervision.pseudo_labels(weak.logits, signals.present)

  terms, strong = {}, None
  if dc.fpc:
    keys = augment.sample_keys(k_drop, index)
    dropped = drop_bottleneck(features, keys, dc.dropout)
    view, _ = _decode(nets, params, statistics, dropped, count, True)
    terms['fpc_ce'] = losses.cross_entropy(view.logits, pseudo, nets.axis_name)
    terms |= _mpcl(nets, params, bank, view, pseudo, signals.present, 'fpc')
  if dc.ipc:
    features, statistics = _apply(
      nets, params, after_weak, 'encode', strong_images, count
    )
    strong, after_weak = _decode(
      nets, params, statistics, features, count, True
    )
    terms['ipc_ce'] = losses.cross_entropy(
      strong.logits, pseudo, nets.axis_name
    )
    terms |= _mpcl(nets, params, bank, strong, pseudo, signals.present, 'ipc')
  return terms, strong, pseudo, after_weak


def _update_bank(nets, bank, labeled, unlabeled, signals):
  """Start, assignment and update of the prototypes (eq 4 to 7).

  Args:
    nets: modules and settings.
    bank: the bank from before this step.
    labeled: (view, labels).
    unlabeled: (strong view, pseudo-labels) or None.
    signals: what the loop passed in.

  Returns:
    The new bank, and metrics.
  """
  mpcl = nets.config.mpcl
  view, labels = labeled
  embeddings, labels = view.embeddings, _strided(nets, labels)
  started = prototypes.start(
    bank, embeddings, labels, signals.present, nets.axis_name
  )
  takes_part = jnp.ones(labels.shape, bool)
  if unlabeled is not None:
    strong, pseudo = unlabeled
    pseudo = _strided(nets, pseudo)
    embeddings = jnp.concatenate([embeddings, strong.embeddings], 1)
    labels = jnp.concatenate([labels, pseudo.astype(labels.dtype)], 1)
    joins = signals.active & signals.consistent[:, None]
    takes_part = jnp.concatenate(
      [takes_part, jnp.broadcast_to(joins, pseudo.shape)], 1
    )
  embeddings = lax.stop_gradient(embeddings)
  kept = takes_part
  if mpcl.assignment == 'sinkhorn':
    scores = jnp.einsum('knd,kcd->knc', embeddings, bank.bank)
    assigned = prototypes.assign(
      scores,
      takes_part,
      signals.present,
      epsilon=mpcl.epsilon,
      iterations=mpcl.iterations,
      axis_name=nets.axis_name,
    )
    kept &= assigned == labels
  # A bank that was not ready before this step keeps its start.
  moved, counts = prototypes.update(
    started._replace(ready=bank.ready),
    embeddings,
    labels,
    kept,
    momentum=mpcl.momentum,
    axis_name=nets.axis_name,
  )
  chosen = losses.one_hot(labels, nets.num_classes) & takes_part[..., None]
  offered = losses.total(jnp.sum(chosen, 1).astype(jnp.float32), nets.axis_name)
  metrics = {
    'kept_pixels': jnp.where(bank.ready[:, None], counts, 0.0),
    'offered_pixels': jnp.where(bank.ready[:, None], offered, 0.0),
    'prototype_cosine': prototypes.cross_modality_cosine(moved.bank),
  }
  return moved._replace(ready=started.ready), metrics


def _loss(nets, params, memory, batch, key, signals):
  """L_total (eq 22-23) and everything that changes beside the parameters."""
  k_labeled, k_unlabeled = jax.random.split(key)
  bank = memory.get('prototypes')
  terms, view, labels, statistics = _labeled(
    nets,
    params,
    memory['modulation'],
    bank,
    batch['labeled'],
    k_labeled,
    signals,
  )
  per_modality = sum(terms.values())
  unlabeled, dc = None, nets.config.dc
  if 'unlabeled' in batch and (dc.ipc or dc.fpc):
    more, strong, pseudo, statistics = _unlabeled(
      nets,
      supervision.gate(params, signals.active),
      statistics,
      bank,
      batch['unlabeled'],
      k_unlabeled,
      signals,
    )
    on = signals.active & signals.consistent
    # Selected, never multiplied: a NaN in the warm-up must not reach the sum.
    more = {name: jnp.where(on, value, 0.0) for name, value in more.items()}
    per_modality += signals.ramp * sum(more.values())
    terms |= more
    if strong is not None:
      unlabeled = (strong, pseudo)
  metrics = dict(terms)
  metrics['dice_counts'] = losses.dice_counts(
    view.logits, labels, nets.axis_name
  )
  memory = {**memory, 'modulation': statistics}
  if bank is not None:
    memory['prototypes'], more = _update_bank(
      nets, bank, (view, labels), unlabeled, signals
    )
    metrics |= more
  return jnp.sum(signals.weights * per_modality), (memory, metrics)
