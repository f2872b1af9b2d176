"""DBDC: Double Bank Dual Consistency (the paper's equations 17 to 23).

One U-Net for all modalities; its normalisation is the modulation bank (MLMB),
its decoder feeds the projector whose embeddings train, and are trained by, the
prototype bank (MLPB, `prototypes.py`). Four passes make a step:

  labelled   encoder, decoder, head, projector         supervision (eq 21)
  weak       encoder; decoder and head, no gradient    pseudo-label Y
  dropout    the weak encoder's features, bottleneck   feature consistency
             dropped; decoder, head, projector           (eq 19)
  strong     encoder, decoder, head, projector         image consistency (18)

Those with a gradient are one batch, so that a convolution has three times the
images; each pass is still normalised by its own statistics. Running statistics
are updated by labelled, weak and strong, in this order.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from data import task_file
from dbdc_jax.methods.common import base, four_passes, supervision
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet
from dbdc_jax.ops import augment, losses, optimizer, prototypes
from dbdc_jax.runtime.precision import compute_dtype


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
  nets = four_passes.Networks(
    unet=unet,
    projector=Projector(dim=config.model.embedding_dim, dtype=dtype),
    config=config,
    settings=augment.Augmentation(**config.augment),
    labelable=labelable,
    axis_name=axis_name,
  )

  def predict(params, memory, images, modality):
    variables = four_passes.variables(params, memory)
    logits = predictor.apply(variables, images, modality, False)
    return losses.only_labelable(logits, labelable, modality)

  return base.Method(
    init=functools.partial(_init, nets, predictor),
    loss=functools.partial(_loss, nets),
    predict=predict,
    update=base.keep_memory,
    counted=functools.partial(_counted, nets, predictor),
    traits=base.Traits(
      joint=base.is_joint(config, True),
      unlabeled=config.dc.ipc or config.dc.fpc,
      weighted=True,
    ),
    recipe=base.Recipe(
      optimizer.build(), config.optimizer.learning_rate, config.batch_size
    ),
  )


def _with_taps(net, images, modality):
  """Logits, and what the projector takes."""
  taps = net.decode(net.encode(images, modality, False), modality, False)
  return net.head(taps[-1], modality, False), taps


def _counted(nets, predictor, params, memory, image):
  """The U-Net and, if it is on, the projector; see `base.Method`."""
  variables = four_passes.variables(params, memory)
  ids = jnp.zeros(1, jnp.int32)
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


def _strided(nets, labels):
  """Labels `[..., K, b, H, W]` at the embeddings' pixels: `[..., K, n]`."""
  stride = nets.config.mpcl.stride
  labels = labels[..., ::stride, ::stride]
  return labels.reshape(*labels.shape[:-3], -1)


def _mpcl(nets, params, bank, views, labels, signals):
  """The enabled MPCL terms of all passes, each already divided as in eq 12.

  Args:
    nets: modules and settings.
    params: parameters.
    bank: the bank from before this step.
    views: of P passes.
    labels: `[P, K, b, H, W]` labels, or pseudo-labels.
    signals: what the loop passed in.

  Returns:
    Term to `[P, K]`.
  """
  if views.embeddings is None:
    return {}
  passes = len(labels)
  # The norm's gradient from what must not act yet is selected away, too.
  acts = jnp.array([True] + [False] * (passes - 1)) | signals.active
  norm = supervision.gate(
    {
      name: jnp.broadcast_to(value, (passes, *value.shape))
      for name, value in params['prototype_norm'].items()
    },
    acts[:, None],
  )
  terms = jax.vmap(
    lambda embeddings, labels, norm: prototypes.mpcl_terms(
      bank,
      embeddings,
      labels,
      signals.present,
      **norm,
      temperature=nets.config.mpcl.temperature,
      axis_name=nets.axis_name,
    )
  )(views.embeddings, _strided(nets, labels), norm)
  share = nets.config.mpcl.delta / 4
  return {
    name: share * value
    for name, value in terms.items()
    if nets.config.mpcl[name]
  }


def _update_bank(nets, bank, passes, labels, signals):
  """Start, assignment and update of the prototypes (eq 4 to 7).

  Args:
    nets: modules and settings.
    bank: the bank from before this step.
    passes: of which the labelled and the strong one take part.
    labels: `[K, b, H, W]` of the labelled slices.
    signals: what the loop passed in.

  Returns:
    The new bank, and metrics.
  """
  mpcl = nets.config.mpcl
  views = lax.stop_gradient(passes.views.embeddings)
  labels = _strided(nets, labels)
  started = prototypes.start(
    bank, views[0], labels, signals.present, nets.axis_name
  )
  takes_part, used = jnp.ones(labels.shape, bool), [0]
  if 'ipc' in passes.names:
    used.append(passes.names.index('ipc'))
    pseudo = _strided(nets, passes.pseudo)
    labels = jnp.concatenate([labels, pseudo.astype(labels.dtype)], 1)
    joins = signals.active & signals.consistent[:, None]
    takes_part = jnp.concatenate(
      [takes_part, jnp.broadcast_to(joins, pseudo.shape)], 1
    )
  joined = lambda values: jnp.concatenate([values[i] for i in used], 1)
  kept = takes_part
  if mpcl.assignment == 'sinkhorn':
    # Of all views: the product that the loss has, too, is computed once.
    similarities = jax.vmap(prototypes.similarity, (0, None))(views, bank.bank)
    assigned = prototypes.assign(
      joined(jax.vmap(prototypes.own)(similarities)),
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
    joined(views),
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


def _terms(nets, params, bank, passes, labels, signals):
  """The terms of the loss, `[K]` each: `sup_...` (eq 21); `ipc_...`, `fpc_...`.

  Selected, never multiplied: an unlabelled loss that is no number in the
  warm-up must not reach the sum. (Activations that are none would: one batch
  has all.)
  """
  names, others = passes.names, passes.names[1:]
  on = signals.active & signals.consistent
  acts = jnp.stack([jnp.ones_like(on), *[on for _ in others]])  # [P, K]
  views = jax.tree.map(
    lambda x: supervision.gate(
      x, jnp.expand_dims(acts, tuple(range(2, x.ndim)))
    ),
    passes.views,
  )
  terms = supervision.labeled_terms(
    views.logits[0], labels, signals, nets.axis_name
  )
  more = {
    f'{name}_ce': losses.cross_entropy(logits, passes.pseudo, nets.axis_name)
    for name, logits in zip(others, views.logits[1:], strict=True)
  }
  truth = [labels, *[passes.pseudo.astype(labels.dtype) for _ in others]]
  mpcl = _mpcl(nets, params, bank, views, jnp.stack(truth), signals)
  for term, (first, *rest) in mpcl.items():
    terms[f'{names[0]}_{term}'] = first
    more |= {f'{n}_{term}': x for n, x in zip(others, rest, strict=True)}
  return terms, {name: jnp.where(on, x, 0.0) for name, x in more.items()}


def _loss(nets, params, memory, batch, key, signals):
  """L_total (eq 22-23) and everything that changes beside the parameters."""
  images, labels, k_drop = four_passes.augmented(nets, batch, key)
  passes = four_passes.run(nets, params, memory, images, signals, k_drop)
  bank = memory.get('prototypes')
  terms, more = _terms(nets, params, bank, passes, labels, signals)
  per_modality = sum(terms.values()) + signals.ramp * sum(more.values())
  metrics = terms | more
  metrics['dice_counts'] = losses.dice_counts(
    passes.views.logits[0], labels, nets.axis_name
  )
  found = jax.tree.map(lambda *x: jnp.concatenate(x), *passes.moments)
  statistics = four_passes.follow(memory['modulation'], found)
  memory = {**memory, 'modulation': statistics}
  if bank is not None:
    memory['prototypes'], more = _update_bank(
      nets, bank, passes, labels, signals
    )
    metrics |= more
  return jnp.sum(signals.weights * per_modality), (memory, metrics)
