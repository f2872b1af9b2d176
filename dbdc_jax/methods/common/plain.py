"""What the methods beside DBDC share: plain U-Nets and a step that trains them.

Such a method is one function from a step's views to named loss terms. Here are
its functions, the way from terms to the loss, and its recipe.

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
import optax

from dbdc_jax.methods.common import base, networks, passes, supervision
from dbdc_jax.methods.common.networks import Networks, Step
from dbdc_jax.ops import losses, optimizer, teacher
from dbdc_jax.ops.shapes import Labels, Logits, PerModality, Scalar

# Of the published optimizer.
WEIGHT_DECAY = 1e-4
# Both terms of the labelled loss in the semi-supervised methods: (CE + Dice)/2.
HALF = 0.5


class Outcome(NamedTuple):
  """What a method's loss returns.

  Attributes:
    labeled: terms by name.
    unlabeled: terms by name, before ramp and weight; may be empty.
    logits: of the labelled slices, for the training DSC.
    labels: of the same.
    statistics: running ones after the step.
  """

  labeled: dict[str, PerModality]
  unlabeled: dict[str, PerModality]
  logits: Logits
  labels: Labels
  statistics: Any


def build(
  config: ml_collections.ConfigDict,
  *,
  loss: Callable[[Step, Any, Any], Outcome],
  unlabeled: bool = True,
  pair: bool = False,
  taught: bool = False,
  readout: Callable[[jax.Array], jax.Array] | None = None,
  own_tx: optax.GradientTransformation | None = None,
  own_start: float = 0.0,
  multiple: int = 1,
) -> base.Method:
  """Makes a method of plain networks.

  Args:
    config: the run's config.
    loss: `(step, params, memory) -> Outcome`.
    unlabeled: whether it looks at unlabelled slices.
    pair: two networks of different starts, `params['net1']` and `['net2']`,
      whose statistics are `memory['modulation']['net1']` and so on; the first
      is tested. Otherwise `params` are one network's.
    taught: `memory['teacher']` follows `params`.
    readout: from the tested network's output to logits.
    own_tx: the optimizer of `recipe=own`, if not the usual one.
    own_start: see `networks.Networks`.
    multiple: see `base.Traits`.
  """
  follow = functools.partial(teacher.follow, limit=config.ssl.decay)
  second = {'second': functools.partial(_predict, number=1)} if pair else {}
  return networks.method(
    networks.of_unet(config, own_start),
    init=functools.partial(_init, pair=pair, taught=taught),
    loss=functools.partial(_loss, loss),
    predict=functools.partial(_predict, readout=readout),
    **second,
    update=follow if taught else base.keep_memory,
    counted=_counted,
    traits=base.Traits(
      joint=base.is_joint(config, False), unlabeled=unlabeled, multiple=multiple
    ),
    recipe=base.recipe(
      config,
      own_tx or optimizer.sgd(WEIGHT_DECAY),
      config.optimizer.own_learning_rate,
    ),
  )


def _init(net: Networks, key: jax.Array, *, pair: bool, taught: bool):
  """Parameters and memory before the first step."""
  ids = jnp.zeros(1, jnp.int32)

  def start(key):
    variables = net.predictor.init(key, net.blank, ids, False)
    return variables['params'], variables['modulation']

  if pair:
    params, statistics = passes.by_name(map(start, jax.random.split(key)))
  else:
    params, statistics = start(key)
  memory = {'modulation': statistics}
  return params, memory | (teacher.init(params) if taught else {})


def _each(params: Any, statistics: Any) -> list[dict[str, Any]]:
  """What the network, or each of a pair, is applied with."""
  if passes.PAIR[0] not in params:
    return [{'params': params, 'modulation': statistics}]
  return [
    {'params': params[name], 'modulation': statistics[name]}
    for name in passes.PAIR
  ]


def _predict(
  net: Networks, params, memory, images, modality, *, number=0, readout=None
):
  """Logits in evaluation mode; `number` says of which one of a pair."""
  variables = _each(params, memory['modulation'])[number]
  logits = net.predictor.apply(variables, images, modality, False)
  logits = losses.only_labelable(logits, net.labelable, modality)
  return readout(logits) if readout else logits


def _counted(net: Networks, params, memory, image):
  """The network or both, and the teacher; see `base.Method`."""
  statistics = memory['modulation']
  found = _each(params, statistics)
  if 'teacher' in memory:
    found += _each(memory['teacher'], statistics)
  ids = jnp.zeros(len(image), jnp.int32)
  for variables in found:
    net.predictor.apply(variables, image, ids, False)
  return [variables['params'] for variables in found]


def gaussian_ramp(progress: Scalar | float) -> Scalar:
  """exp(-5 (1 - progress)^2)."""
  return jnp.exp(-5.0 * jnp.square(1.0 - progress))


def ramp(step: Step) -> Scalar:
  """Weight of the unlabelled losses, in the run's recipe."""
  signals = step.signals
  return gaussian_ramp(signals.progress) if step.net.own else signals.ramp


def _loss(loss, step: Step, params, memory):
  """The loss of an `Outcome`; see `networks.method`."""
  outcome, signals = loss(step, params, memory), step.signals
  terms = dict(outcome.labeled)
  per_modality = sum(terms.values())
  if outcome.unlabeled:
    # Selected, never multiplied: a NaN that must not act stays out.
    on = passes.acting(step)
    more = {k: jnp.where(on, v, 0.0) for k, v in outcome.unlabeled.items()}
    per_modality += step.config.ssl.weight * ramp(step) * sum(more.values())
    terms |= more
  told = supervision.judged(step, outcome.labels)
  counts = losses.dice_counts(outcome.logits, outcome.labels, told)
  value = jnp.sum(signals.weights * per_modality)
  memory = {**memory, 'modulation': outcome.statistics}
  return value, (memory, {**terms, 'dice_counts': counts})
