"""What the methods beside DBDC share: plain U-Nets and a step that trains them.

Such a method is one function from a step's views to named loss terms. Here are
its networks, its views, the way from terms to the loss, and its recipe.

`recipe=dbdc` leaves everything but the method as in DBDC: optimizer, learning
rate, augmentation, ramp and supervised epochs. `recipe=own` takes what these
methods were published with (the 2-D code that they share): gradient descent
with momentum and weight decay, rotations and flips but neither scaling nor
intensity curves, a Gaussian ramp over the run and no supervised epochs. Images
are interpolated linearly and cropped in both: nearest neighbours, and shrinking
a whole slice to the patch, would make the test's slices another kind of image.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from data import task_file
from dbdc_jax.methods.common import base, passes
from dbdc_jax.models.unet import UNet
from dbdc_jax.ops import augment, losses, optimizer, teacher
from dbdc_jax.runtime.precision import compute_dtype

# Of the published optimizer.
WEIGHT_DECAY = 1e-4
# Both terms of the labelled loss in the semi-supervised methods: (CE + Dice)/2.
HALF = 0.5


class Outcome(NamedTuple):
  """What a method's loss returns.

  Attributes:
    labeled: terms `[K]` by name.
    unlabeled: terms `[K]` by name, before ramp and weight; may be empty.
    logits: `[K, b, H, W, C]` of the labelled slices, for the training DSC.
    labels: `[K, b, H, W]`.
    memory: after the step.
  """

  labeled: dict[str, jax.Array]
  unlabeled: dict[str, jax.Array]
  logits: jax.Array
  labels: jax.Array
  memory: Any


def build(
  config: ml_collections.ConfigDict,
  axis_name: str | None,
  loss: Callable[[passes.Step, Any, Any], Outcome],
  *,
  unlabeled: bool = True,
  pair: bool = False,
  taught: bool = False,
  readout: Callable[[jax.Array], jax.Array] = lambda logits: logits,
  own_tx: optax.GradientTransformation | None = None,
  own_start: float = 0.0,
  multiple: int = 1,
) -> base.Method:
  """Makes a method of plain networks.

  Args:
    config: the run's config.
    axis_name: the device axis, or None.
    loss: `(step, params, memory) -> Outcome`.
    unlabeled: whether it looks at unlabelled slices.
    pair: two networks of different starts, `params['net1']` and `['net2']`,
      whose statistics are `memory['modulation']['net1']` and so on; the first
      is tested. Otherwise `params` are one network's.
    taught: `memory['teacher']` follows `params`.
    readout: from the tested network's output to logits.
    own_tx: the optimizer of `recipe=own`, if not the usual one.
    own_start: see `passes.Plain`.
    multiple: see `base.Traits`.
  """
  net = network(config, axis_name, own_start)
  follow = functools.partial(teacher.follow, limit=config.ssl.decay)
  return base.Method(
    init=functools.partial(_init, net, pair, taught),
    loss=functools.partial(_loss, net, loss),
    predict=functools.partial(_predict, net, pair, readout),
    update=follow if taught else base.keep_memory,
    counted=functools.partial(_counted, net, pair),
    traits=base.Traits(
      joint=base.is_joint(config, False),
      unlabeled=unlabeled,
      multiple=multiple,
    ),
    recipe=base.recipe(
      config,
      own_tx or optimizer.sgd(WEIGHT_DECAY),
      config.optimizer.own_learning_rate,
    ),
  )


def network(
  config: ml_collections.ConfigDict, axis_name: str | None, own_start: float
) -> passes.Plain:
  """The network and settings of a config; see `passes.Plain`."""
  labelable = labelable_classes(config)
  unet = UNet(
    num_classes=labelable.shape[1],
    num_modalities=labelable.shape[0],
    width=config.model.width,
    axis_name=axis_name,
    grouped=True,
    dtype=compute_dtype(config.dtype),
    modulation=config.model.modulation,
  )
  # Prediction takes any mixture of modalities: no grouped layout.
  predictor = unet.clone(grouped=False, axis_name=None)
  return passes.Plain(
    unet,
    predictor,
    augmentation(config),
    config,
    labelable,
    own_start,
    axis_name,
  )


def labelable_classes(config: ml_collections.ConfigDict) -> np.ndarray:
  """`[K, C]` bool of the run's modalities, see `Task.labelable`."""
  task = task_file.find(config.task)
  return task.labelable(task.select(config.modalities))


def augmentation(config: ml_collections.ConfigDict) -> augment.Augmentation:
  """What is drawn, with either recipe."""
  settings = augment.Augmentation(**config.augment)
  if config.recipe == 'own':
    settings = settings._replace(scale=0.0, intensity_labeled=0.0)
  return settings


def _init(net: passes.Plain, pair: bool, taught: bool, key: jax.Array):
  """Parameters and memory before the first step."""
  patch = net.settings.patch_size
  image = jnp.zeros((1, patch, patch, 1))

  def start(key):
    ids = jnp.zeros(1, jnp.int32)
    variables = net.predictor.init(key, image, ids, False)
    return variables['params'], variables['modulation']

  if pair:
    keys = jax.random.split(key)
    starts = [start(k) for k in keys]
    params, statistics = (
      dict(zip(passes.PAIR, part, strict=True))
      for part in zip(*starts, strict=True)
    )
  else:
    params, statistics = start(key)
  memory = {'modulation': statistics}
  return params, memory | (teacher.init(params) if taught else {})


def _predict(net, pair, readout, params, memory, images, modality):
  """Logits in evaluation mode, of a pair those of the first network."""
  variables = _tested(pair, params, memory)
  logits = net.predictor.apply(variables, images, modality, False)
  logits = losses.only_labelable(logits, net.labelable, modality)
  return readout(logits)


def _tested(pair, params, memory):
  """Parameters and statistics of the network that is tested."""
  statistics = memory['modulation']
  if pair:
    params, statistics = params[passes.PAIR[0]], statistics[passes.PAIR[0]]
  return {'params': params, 'modulation': statistics}


def _counted(net, pair, params, memory, image):
  """The network or both, and the teacher; see `base.Method`."""
  names = passes.PAIR if pair else (None,)
  parts = [params[name] if name else params for name in names]
  parts += [memory[name] for name in ('teacher',) if name in memory]
  statistics = memory['modulation'][names[0]] if pair else memory['modulation']
  ids = jnp.zeros(len(image), jnp.int32)
  for part in parts:
    variables = {'params': part, 'modulation': statistics}
    net.predictor.apply(variables, image, ids, False)
  return parts


def _loss(net, loss, params, memory, batch, key, signals):
  """The loss, with memory and metrics; see `base.Method`."""
  step = passes.Step(net, batch, key, signals)
  return _total(step, loss(step, params, memory))


def gaussian_ramp(progress: jax.Array) -> jax.Array:
  """exp(-5 (1 - progress)^2)."""
  return jnp.exp(-5.0 * jnp.square(1.0 - progress))


def ramp(step: passes.Step) -> jax.Array:
  """Scalar weight of the unlabelled losses, in the run's recipe."""
  signals = step.signals
  return gaussian_ramp(signals.progress) if step.net.own else signals.ramp


def _total(step: passes.Step, outcome: Outcome):
  """The loss, with memory and metrics, of `base.Method.loss`."""
  terms, signals = dict(outcome.labeled), step.signals
  per_modality = sum(terms.values())
  if outcome.unlabeled:
    # Selected, never multiplied: a NaN that must not act stays out.
    on = passes.acting(step)
    more = {k: jnp.where(on, v, 0.0) for k, v in outcome.unlabeled.items()}
    per_modality += step.net.config.ssl.weight * ramp(step) * sum(more.values())
    terms |= more
  counts = losses.dice_counts(
    outcome.logits, outcome.labels, step.net.axis_name
  )
  value = jnp.sum(signals.weights * per_modality)
  return value, (outcome.memory, {**terms, 'dice_counts': counts})
