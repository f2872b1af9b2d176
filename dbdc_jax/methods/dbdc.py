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
import jax.numpy as jnp
from jaxtyping import Array
import ml_collections

from dbdc_jax.methods.common import (
  base,
  four_passes,
  networks,
  prototype_bank,
  supervision,
)
from dbdc_jax.ops import losses, optimizer, prototypes, teacher

# Fields that say how DBDC is read, and their values.
_CHOICES = {
  'mpcl.assignment': ('sinkhorn', 'label'),
  'mpcl.reading': ('printed', 'code'),
  'mpcl.start': ('first', 'warmup'),
  'mpcl.across': ('separate', 'align'),
  'dc.pseudo': ('student', 'teacher'),
  'weighting.reading': ('printed', 'code'),
}


def build(config: ml_collections.ConfigDict) -> base.Method:
  """Builds the method; see `base.Method`.

  Raises:
    ValueError: an unknown value of a field that says how DBDC is read, or a
      share that is none.
  """
  for field, allowed in _CHOICES.items():
    group, name = field.split('.')
    if config[group][name] not in allowed:
      raise ValueError(
        f'{field}={config[group][name]!r}: choose {" or ".join(allowed)}'
      )
  for name in ('confidence', 'cutmix'):
    if not 0 <= config.dc[name] <= 1:
      raise ValueError(f'dc.{name}={config.dc[name]}: give a number in [0, 1]')
  if config.mpcl.delta < 0:
    raise ValueError(f'mpcl.delta={config.mpcl.delta}: give 0 or more')
  if not config.weighting.smoothing > 0:
    raise ValueError(
      f'weighting.smoothing={config.weighting.smoothing}: give a number above 0'
    )
  taught = config.dc.pseudo == 'teacher'
  return networks.method(
    networks.of_unet(config, extra_head=True),
    init=_init,
    loss=_loss,
    predict=four_passes.predict,
    update=functools.partial(_update, limit=config.ssl.decay)
    if taught
    else base.keep_memory,
    counted=_counted,
    traits=base.Traits(
      joint=base.is_joint(config, True),
      unlabeled=config.dc.ipc or config.dc.fpc,
      weighted=True,
      # Slices are mixed with their neighbours.
      multiple=2 if config.dc.cutmix and config.dc.ipc else 1,
    ),
    recipe=base.Recipe(
      optimizer.build(), config.optimizer.learning_rate, config.batch_size
    ),
  )


def _init(net, key):
  """Parameters and memory before the first step."""
  k_unet, k_projector = jax.random.split(key)
  ids = jnp.zeros(1, jnp.int32)
  variables = net.predictor.init(k_unet, net.blank, ids, False)
  params = {'unet': variables['params']}
  memory = {'modulation': variables['modulation']}
  if net.config.dc.pseudo == 'teacher':
    memory |= teacher.init(params['unet'])
  if net.config.mpcl.enabled:
    (num_modalities, num_classes), model = net.labelable.shape, net.config.model
    patch = net.settings.patch_size
    # The decoder's scales, coarse to fine.
    taps = tuple(
      jnp.zeros((1, patch // part, patch // part, 2 * part * model.width))
      for part in (4, 2, 1)
    )
    projector = four_passes.projector(net)
    params['projector'] = projector.init(k_projector, taps)['params']
    # The LayerNorm of the prototype logits, shared by the modalities.
    params['prototype_norm'] = {
      'scale': jnp.ones(num_classes),
      'bias': jnp.zeros(num_classes),
    }
    memory['prototypes'] = prototypes.init(
      num_modalities, num_classes, model.embedding_dim
    )
  return params, memory


def _update(params, memory, *, limit):
  """The teacher follows the U-Net."""
  return teacher.follow(params['unet'], memory, limit)


def _with_taps(unet, images, modality):
  """Logits, and what the projector takes."""
  taps = unet.decode(unet.encode(images, modality, False), modality, False)
  return unet.head(taps[-1], modality, False), taps


def _counted(net, params, memory, image):
  """The U-Net, its projector and its teacher, where they are."""
  variables = four_passes.variables(params, memory)
  ids = jnp.zeros(1, jnp.int32)
  _, taps = net.predictor.apply(variables, image, ids, method=_with_taps)
  if net.config.mpcl.enabled:
    weights = {'params': params['projector']}
    four_passes.projector(net).apply(weights, taps)
  if 'teacher' not in memory:
    return params
  taught = four_passes.tested(params, memory)
  net.predictor.apply(taught, image, ids, False)
  return [params, memory['teacher']]


def _loss(step, params, memory):
  """L_total (eq 20 to 23), and all that changes beside the parameters."""
  passes = four_passes.run(step, params, memory)
  gated = _gated(step, passes)
  mpcl = prototype_bank.terms(step, params, memory, gated)
  supervised = _supervised(step, gated, mpcl)
  consistency = _consistency(step, gated, mpcl)
  omega, signals = step.signals.weights, step.signals
  ramp = signals.ramp * jnp.where(signals.reading.weighs_unlabeled, omega, 1.0)
  total = lambda terms: sum(terms.values())
  value = jnp.sum(omega * total(supervised) + ramp * total(consistency))
  memory, found = _remembered(step, memory, passes)
  told = supervision.judged(step, passes.targets[0])
  counts = losses.dice_counts(passes.seen.logits[0], passes.targets[0], told)
  metrics = {**supervised, **consistency, **found, 'dice_counts': counts}
  return value, (memory, metrics)


def _gated(step, passes):
  """The passes, through which no gradient comes where they must not act."""
  on = step.signals.active & step.signals.consistent
  acts = jnp.stack([jnp.ones_like(on), *[on for _ in passes.names[1:]]])
  gate = lambda x: supervision.gate(
    x, jnp.expand_dims(acts, tuple(range(2, x.ndim)))
  )
  return passes._replace(seen=jax.tree.map(gate, passes.seen))


def _supervised(step, passes, mpcl):
  """The terms `[K]` of the labelled slices (eq 21)."""
  terms = supervision.labeled_terms(
    step, passes.seen.logits[0], passes.targets[0]
  )
  return terms | {f'sup_{name}': value[0] for name, value in mpcl.items()}


def _consistency(step, passes, mpcl):
  """The terms `[K]` of both consistencies (eq 18 to 20).

  Selected, never multiplied: an unlabelled loss that is no number in the
  warm-up must not reach the sum. (Activations that are none would: one batch
  has all.)
  """
  names, terms = passes.names[1:], {}
  for name, logits in zip(names, passes.seen.logits[1:], strict=True):
    at = names.index(name) + 1
    terms[f'{name}_ce'] = losses.cross_entropy(
      logits, passes.targets[at], passes.sure[at]
    )
  for term, values in mpcl.items():
    for name, value in zip(names, list(values)[1:], strict=True):
      terms[f'{name}_{term}'] = value
  on = step.signals.active & step.signals.consistent
  return {name: jnp.where(on, value, 0.0) for name, value in terms.items()}


def _remembered(step, memory, passes):
  """The memory after a step, and metrics of the prototype bank."""
  found = jax.tree.map(lambda *x: jnp.concatenate(x), *passes.moments)
  statistics = four_passes.follow(memory['modulation'], found)
  memory = {**memory, 'modulation': statistics}
  metrics: dict[str, Array] = {}
  if step.config.mpcl.enabled:
    bank = memory['prototypes']
    memory['prototypes'], metrics = prototype_bank.update(step, bank, passes)
  return memory, metrics
