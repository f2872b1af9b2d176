"""SUMML: semi-supervised unpaired multi-modal learning (the paper's Table I).

A re-implementation from description: Zhu et al., "Semi-supervised unpaired
multi-modal learning for label-efficient medical image segmentation" (2021), has
no public code. What its abstract says is here; numbers that it does not give
are CycleGAN's usual ones (Zhu, Park, Isola, Efros 2017) and marked (?) below;
sizes are those that add up to the row's parameters (25.02 M) and
multiply-accumulates (23.46 G).

Two modalities, i and its other j, unpaired. Each has a segmenter S_i (the plain
U-Net), a translator G_ij to the other (the same U-Net with one output and tanh)
and a discriminator D_i (PatchGAN). With z = S_i(x) and w = S_j(G_ij(x)):

  labelled     (CE + Dice)(z, y) + a (CE + Dice)(w, y)
  consistency  a r (KL(z || w) + KL(w || z)) / 2, mean over pixels, all slices
  co-training  a r (CE(w, argmax z) + CE(z, argmax w)), unlabelled slices, where
               the pseudo-label is among the most confident share of its class
  translation  mean (D_j(G_ij(x)) - 1)^2 + 10 mean |G_ji(G_ij(x)) - x|  (?)
  D_j          (mean (D_j(x_j) - 1)^2 + mean D_j(G_ij(x_i))^2) / 2       (?)

a is 0 in the first epochs, when only translators and labelled slices teach, and
r is the ramp. The share rises from 20 % to 80 % of the pixels over the run, as
in class-balanced self-training (Zou et al. 2018) (?). Images are in [-1, 1] for
translators and discriminators.

Readings. The losses of a translated slice move the segmenter and the
translator that made it, which keeps the anatomy; a discriminator's loss moves
it alone, and the translation's loss no discriminator: one sum, in which
`stop_gradient` keeps them apart. A segmenter's running statistics are of its
own modality's slices, which it is tested on. No pool of earlier translations
and no identity loss. One Adam for the segmenters, one with beta_1 = 0.5 for all
else at `ssl.gan_learning_rate` (?).
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dbdc_jax import losses, optimizer, passes, plain, supervision
from dbdc_jax.methods import base
from dbdc_jax.models import fit
from dbdc_jax.models.patch_gan import PatchGan
from dbdc_jax.models.unet import UNet

# Weight of the way there and back.
CYCLE = 10.0
# Share of the run before which translated slices do not teach (recipe=own).
_OWN_START = 0.2
# Share of the pixels of a class that teach, at the start and at the end.
_SHARES = (0.2, 0.8)
# Confidence as log odds, told apart in so many steps between these limits.
_STEPS, _LOW, _HIGH = 512, -4.0, 17.0


class Networks(NamedTuple):
  """The kinds of networks; each exists once per modality (`passes.PAIR`)."""

  segmenter: UNet
  tester: UNet
  generator: UNet
  discriminator: PatchGan


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`.

  Raises:
    ValueError: other than two modalities, or a network for each is asked for.
  """
  net = plain.network(config, axis_name, _OWN_START)
  count = len(net.labelable)
  if count != 2 or not base.is_joint(config, True):
    found = f'{count} modalities' if count != 2 else 'joint=false'
    raise ValueError(
      f'summl: two modalities teach each other by translation, and this is'
      f' {found}; choose --config.modalities=FIRST,SECOND and joint=auto'
    )
  segmenter = net.unet.clone(num_modalities=1)
  nets = Networks(
    segmenter,
    net.predictor.clone(num_modalities=1),
    segmenter.clone(num_classes=1),
    PatchGan(2 * config.model.width, net.unet.dtype),
  )
  return base.Method(
    functools.partial(_init, nets, net.settings.patch_size),
    functools.partial(_loss, nets, net),
    functools.partial(_predict, nets, net.labelable),
    base.keep_memory,
    joint=True,
    unlabeled=True,
    fit=functools.partial(_fit, nets),
    tx=_tx(config.ssl.gan_learning_rate / config.optimizer.learning_rate),
  )


def _tx(ratio: float) -> optax.GradientTransformation:
  """The optimizer; `ratio` of the game's learning rate to the segmenters'."""
  gan = optax.chain(optax.scale_by_adam(b1=0.5), optax.scale(ratio))
  return optax.multi_transform(
    {'segmenter': optimizer.build(), 'gan': gan},
    {'segmenter': 'segmenter', 'generator': 'gan', 'discriminator': 'gan'},
  )


def _init(nets: Networks, patch: int, key: jax.Array):
  """Parameters and memory before the first step."""
  image, ids = jnp.zeros((1, patch, patch, 1)), jnp.zeros(1, jnp.int32)
  params: dict[str, Any] = {'segmenter': {}, 'generator': {}}
  params['discriminator'], statistics = {}, {}
  for name, part in zip(passes.PAIR, jax.random.split(key), strict=True):
    k_segmenter, k_generator, k_discriminator = jax.random.split(part, 3)
    start = nets.tester.init(k_segmenter, image, ids, False)
    params['segmenter'][name] = start['params']
    statistics[name] = start['modulation']
    generator = nets.generator.clone(axis_name=None)
    start = generator.init(k_generator, image, ids, False)
    params['generator'][name] = start['params']
    start = nets.discriminator.init(k_discriminator, image)
    params['discriminator'][name] = start['params']
  return params, {'modulation': statistics}


def to_signed(images: jax.Array) -> jax.Array:
  """[0, 1] to [-1, 1], where translators and discriminators live."""
  return 2 * images - 1


def from_signed(images: jax.Array) -> jax.Array:
  """[-1, 1] to [0, 1], where segmenters do."""
  return (images + 1) / 2


def translate(nets: Networks, params: Any, images: jax.Array) -> jax.Array:
  """`[n, H, W, 1]` in [-1, 1] to the other modality, normalised by itself."""
  ids = jnp.zeros(len(images), jnp.int32)
  # Never in evaluation mode, so no running statistics are kept.
  out, _ = nets.generator.apply(
    {'params': params}, images, ids, True, mutable=['modulation']
  )
  return jnp.tanh(out)


def _segment(nets, params, statistics, images):
  """Logits `[n, H, W, C]` in train mode, and the new statistics."""
  ids = jnp.zeros(len(images), jnp.int32)
  variables = {'params': params, 'modulation': statistics}
  logits, new = nets.segmenter.apply(
    variables, images, ids, True, mutable=['modulation']
  )
  return logits, new['modulation']


class Passes(NamedTuple):
  """What the networks say of a step's slices, `[K, n, ...]` by source.

  Attributes:
    own: logits of a slice by its modality's segmenter.
    other: logits of its translation by the other segmenter.
    made: translations in [-1, 1].
    back: translations of these back.
    statistics: the segmenters' new ones.
  """

  own: jax.Array
  other: jax.Array
  made: jax.Array
  back: jax.Array
  statistics: dict[str, Any]


def _forward(nets: Networks, labelable, params, memory, images) -> Passes:
  """All passes of segmenters and translators over `images [K, n, H, W, 1]`."""
  own, other, made, back, statistics = [], [], [], [], {}
  segmenters, generators = params['segmenter'], params['generator']
  for i, (here, there) in enumerate((passes.PAIR, passes.PAIR[::-1])):
    known = memory['modulation']
    z, statistics[here] = _segment(
      nets, segmenters[here], known[here], images[i]
    )
    fake = translate(nets, generators[here], to_signed(images[i]))
    w, _ = _segment(nets, segmenters[there], known[there], from_signed(fake))
    rows = jnp.full(len(z), i)
    own.append(losses.only_labelable(z, labelable, rows))
    # Its anatomy is the source's: so are the classes it can have.
    other.append(losses.only_labelable(w, labelable, rows))
    made.append(fake)
    back.append(translate(nets, generators[there], fake))
  return Passes(*map(jnp.stack, (own, other, made, back)), statistics)


def adversarial_terms(
  discriminator: PatchGan,
  params: Any,
  real: jax.Array,
  made: jax.Array,
  axis_name: str | None,
) -> dict[str, jax.Array]:
  """The game between translators and discriminators (least squares).

  Args:
    discriminator: the network.
    params: of both, by `passes.PAIR`.
    real: `[K, n, H, W, 1]` slices in [-1, 1].
    made: translations of the other modality's slices into this one.
    axis_name: the device axis, or None.

  Returns:
    `generator`, which moves `made` alone, and `discriminator`, which moves
    `params` alone; `[K]` by the modality that is translated into.
  """
  apply = lambda p, x: discriminator.apply({'params': p}, x)
  judged, of_real, of_made = [], [], []
  for k, name in enumerate(passes.PAIR):
    judged.append(apply(lax.stop_gradient(params[name]), made[k]))
    both = jnp.concatenate([real[k], lax.stop_gradient(made[k])])
    scores = apply(params[name], both)
    of_real.append(scores[: len(real[k])])
    of_made.append(scores[len(real[k]) :])
  distance = lambda x, wanted: losses.mean(
    jnp.square(jnp.stack(x) - wanted), axis_name
  )
  return {
    'generator': distance(judged, 1.0),
    'discriminator': (distance(of_real, 1.0) + distance(of_made, 0.0)) / 2,
  }


def symmetric_divergence(z: jax.Array, w: jax.Array) -> jax.Array:
  """(KL(z || w) + KL(w || z)) / 2 of two logits `[..., C]`, per pixel."""
  log_p, log_q = jax.nn.log_softmax(z), jax.nn.log_softmax(w)
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  return jnp.sum((p - q) * (log_p - log_q), -1) / 2


def confident(
  logits: jax.Array,
  labels: jax.Array,
  share: jax.Array,
  axis_name: str | None = None,
) -> jax.Array:
  """The most confident share of the pixels of each pseudo-labelled class.

  Confidence is the log odds of the pseudo-label, told apart in 512 steps, so
  that the pixels of all devices are ranked by counting them: at least `share`
  of a class is kept, and of its least confident step either all or none.

  Args:
    logits: `[K, b, H, W, C]`.
    labels: `[K, b, H, W]` pseudo-labels made of them.
    share: scalar in (0, 1].
    axis_name: the device axis, or None.

  Returns:
    `[K, b, H, W]` bool.
  """
  classes = logits.shape[-1]
  chosen = losses.one_hot(labels, classes)
  log_p = jax.nn.log_softmax(lax.stop_gradient(logits))
  log_p = jnp.sum(jnp.where(chosen, log_p, 0.0), -1)
  odds = log_p - jnp.log(jnp.maximum(-jnp.expm1(log_p), 1e-30))
  place = (jnp.clip(odds, _LOW, _HIGH) - _LOW) / (_HIGH - _LOW)
  step = (place * (_STEPS - 1)).astype(jnp.int32)

  def count(labels, step):
    where = labels.ravel() * _STEPS + step.ravel()
    return jnp.zeros(classes * _STEPS).at[where].add(1.0)

  counts = losses.total(jax.vmap(count)(labels, step), axis_name)
  counts = counts.reshape(-1, classes, _STEPS)
  # Pixels of this step and above; the highest step at which they are enough.
  above = jnp.cumsum(counts[..., ::-1], -1)[..., ::-1]
  enough = above >= share * above[..., :1]
  lowest = _STEPS - 1 - jnp.argmax(enough[..., ::-1], -1)  # [K, C]
  limits = jnp.where(chosen, lowest[:, None, None, None], 0).sum(-1)
  return step >= limits


def co_training(
  step: passes.Step, own: jax.Array, other: jax.Array
) -> dict[str, jax.Array]:
  """Each segmenter learns from what the other is sure of.

  Args:
    step: what the method was given.
    own: `[K, b, H, W, C]` logits of unlabelled slices.
    other: of their translations.

  Returns:
    Terms `[K]` by the slices' modality.
  """
  signals, axis_name = step.signals, step.net.axis_name
  first, last = _SHARES
  share = first + (last - first) * signals.progress
  terms = {}
  for name, teacher, student in (
    ('teach_other', own, other),
    ('teach_own', other, own),
  ):
    labels = supervision.pseudo_labels(teacher, signals.present)
    kept = confident(teacher, labels, share, axis_name)
    chosen = losses.one_hot(labels, teacher.shape[-1])
    log_p = jnp.where(chosen, jax.nn.log_softmax(student), 0.0).sum(-1)
    terms[name] = losses.masked_mean(-log_p, kept, axis_name)
  return terms


def _loss(nets, net, params, memory, batch, key, signals):
  """The loss, with memory and metrics; see `base.Method`."""
  step = passes.Step(net, batch, key, signals)
  views, axis_name = passes.views(step), net.axis_name
  images = jnp.concatenate([views.images, views.unlabeled], 1)
  found = _forward(nets, net.labelable, params, memory, images)
  count, signed = views.images.shape[1], to_signed(images)
  terms = supervision.labeled_terms(
    found.own[:, :count], views.labels, signals, axis_name
  )
  terms |= adversarial_terms(
    nets.discriminator,
    params['discriminator'],
    signed,
    found.made[::-1],
    axis_name,
  )
  distance = jnp.abs(found.back - signed)
  terms['cycle'] = CYCLE * losses.mean(distance, axis_name)
  on = passes.acting(step)
  # A translated label needs no unlabelled slice.
  anyway = signals._replace(consistent=jnp.ones_like(signals.consistent))
  started = passes.acting(step._replace(signals=anyway))
  gate = lambda x: supervision.gate(x, started[:, None, None, None, None])
  own, other = gate(found.own), gate(found.other)
  translated = supervision.labeled_terms(
    other[:, :count], views.labels, signals, axis_name, name='translated'
  )
  ramp = plain.ramp(step)
  difference = symmetric_divergence(own, other)
  taught = {'consistency': losses.mean(difference, axis_name)}
  taught |= co_training(step, own[:, count:], other[:, count:])
  taught = {name: ramp * term for name, term in taught.items()}
  terms |= {name: jnp.where(started, x, 0.0) for name, x in translated.items()}
  terms |= {name: jnp.where(on, x, 0.0) for name, x in taught.items()}
  counts = losses.dice_counts(found.own[:, :count], views.labels, axis_name)
  memory = {'modulation': found.statistics}
  value = jnp.sum(signals.weights * sum(terms.values()))
  return value, (memory, {**terms, 'dice_counts': counts})


def _predict(nets, labelable: np.ndarray, params, memory, images, modality):
  """Logits of each image by its modality's segmenter, in evaluation mode."""
  ids = jnp.zeros_like(modality)
  first, second = (
    nets.tester.apply(_tested(params, memory, name), images, ids, False)
    for name in passes.PAIR
  )
  chosen = (modality == 0)[:, None, None, None]
  logits = jnp.where(chosen, first, second)
  return losses.only_labelable(logits, labelable, modality)


def _tested(params, memory, name):
  return {
    'params': params['segmenter'][name],
    'modulation': memory['modulation'][name],
  }


def _fit(nets, params, memory, images, modality):
  """How well images fit the statistics of their modality's segmenter."""
  ids = jnp.zeros_like(modality)
  gaps = []
  for name in passes.PAIR:
    variables = _tested(params, memory, name)
    *_, gap = fit.statistics_gap(nets.tester, variables, images, ids)
    gaps.append(gap)
  return jnp.where(modality[0] == 0, *gaps), jnp.full((), jnp.nan)
