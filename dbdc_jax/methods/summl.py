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
`stop_gradient` keeps them apart. Discriminators are shown earlier translations
too (`image_pool.py`). A segmenter's running statistics are of its own
modality's slices, which it is tested on. No identity loss. One Adam for the
segmenters, one with beta_1 = 0.5 for all else at `ssl.gan_learning_rate` (?).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float
import ml_collections
import optax

from dbdc_jax.methods.common import (
  base,
  co_training,
  networks,
  passes,
  plain,
  supervision,
)
from dbdc_jax.methods.common.networks import Networks, Step
from dbdc_jax.models.patch_gan import PatchGan
from dbdc_jax.ops import image_pool, losses, optimizer
from dbdc_jax.ops.shapes import Images, Logits, PerModality, Slices

# Weight of the way there and back.
CYCLE = 10.0
# Share of the run before which translated slices do not teach (recipe=own).
_OWN_START = 0.2


def build(config: ml_collections.ConfigDict) -> base.Method:
  """Builds the method; see `base.Method`.

  Raises:
    ValueError: other than two modalities, or a network for each is asked for.
  """
  net = networks.of_unet(config, _OWN_START)
  why = 'two modalities teach each other by translation'
  base.check_pair(config, len(net.labelable), why)
  one = {'num_modalities': 1}
  return networks.method(
    net._replace(
      unet=net.unet.clone(**one), predictor=net.predictor.clone(**one)
    ),
    init=_init,
    loss=_loss,
    predict=_predict,
    counted=_counted,
    traits=base.Traits(),
    recipe=base.Recipe(
      _tx(config.ssl.gan_learning_rate / config.optimizer.learning_rate),
      config.optimizer.learning_rate,
      config.batch_size,
    ),
  )


def _tx(ratio: float) -> optax.GradientTransformation:
  """The optimizer; `ratio` of the game's learning rate to the segmenters'."""
  gan = optax.chain(optax.scale_by_adam(b1=0.5), optax.scale(ratio))
  return optax.multi_transform(
    {'segmenter': optimizer.build(), 'gan': gan},
    {'segmenter': 'segmenter', 'generator': 'gan', 'discriminator': 'gan'},
  )


def _generator(net: Networks) -> nn.Module:
  """A translator: the segmenter with one output."""
  return net.unet.clone(num_classes=1)


def _discriminator(net: Networks) -> PatchGan:
  """What tells translations from slices."""
  return PatchGan(2 * net.config.model.width, net.unet.dtype)


def _init(net: Networks, key: jax.Array):
  """Parameters and memory before the first step."""
  image, ids = net.blank, jnp.zeros(1, jnp.int32)
  params: dict[str, Any] = {'segmenter': {}, 'generator': {}}
  params['discriminator'], statistics = {}, {}
  for name, part in zip(passes.PAIR, jax.random.split(key), strict=True):
    k_segmenter, k_generator, k_discriminator = jax.random.split(part, 3)
    start = net.predictor.init(k_segmenter, image, ids, False)
    params['segmenter'][name] = start['params']
    statistics[name] = start['modulation']
    translator = _generator(net)
    start = translator.init(k_generator, image, ids, False)
    params['generator'][name] = start['params']
    start = _discriminator(net).init(k_discriminator, image)
    params['discriminator'][name] = start['params']
  size = max(net.config.ssl.pool, 2 * net.config.batch_size)
  pool = image_pool.init(len(passes.PAIR), size, image.shape[1])
  return params, {'modulation': statistics, 'pool': pool}


def to_signed(images: Float[Array, '*axes']) -> Float[Array, '*axes']:
  """[0, 1] to [-1, 1], where translators and discriminators live."""
  return 2 * images - 1


def from_signed(images: Float[Array, '*axes']) -> Float[Array, '*axes']:
  """[-1, 1] to [0, 1], where segmenters do."""
  return (images + 1) / 2


def translate(net: Networks, params: Any, images: Slices) -> Slices:
  """Images in [-1, 1] to the other modality, normalised by themselves."""
  ids = jnp.zeros(len(images), jnp.int32)
  # Never in evaluation mode, so no running statistics are kept.
  out, _ = _generator(net).apply(
    {'params': params}, images, ids, True, mutable=['modulation']
  )
  return jnp.tanh(out)


def _segment(net, params, statistics, images):
  """Logits `[n, H, W, C]` in train mode, and the new statistics."""
  ids = jnp.zeros(len(images), jnp.int32)
  variables = {'params': params, 'modulation': statistics}
  logits, new = net.unet.apply(
    variables, images, ids, True, mutable=['modulation']
  )
  return logits, new['modulation']


class Passes(NamedTuple):
  """What the networks say of a step's slices, by source.

  Attributes:
    own: logits of a slice by its modality's segmenter.
    other: logits of its translation by the other segmenter.
    made: translations in [-1, 1].
    back: translations of these back.
    statistics: the segmenters' new ones.
  """

  own: Logits
  other: Logits
  made: Images
  back: Images
  statistics: dict[str, Any]


def _forward(net: Networks, params, memory, images) -> Passes:
  """All passes of segmenters and translators over `images [K, n, H, W, 1]`."""
  own, other, made, back, statistics = [], [], [], [], {}
  segmenters, generators = params['segmenter'], params['generator']
  for i, (here, there) in enumerate((passes.PAIR, passes.PAIR[::-1])):
    known = memory['modulation']
    z, statistics[here] = _segment(
      net, segmenters[here], known[here], images[i]
    )
    fake = translate(net, generators[here], to_signed(images[i]))
    w, _ = _segment(net, segmenters[there], known[there], from_signed(fake))
    rows = jnp.full(len(z), i)
    own.append(losses.only_labelable(z, net.labelable, rows))
    # Its anatomy is the source's: so are the classes it can have.
    other.append(losses.only_labelable(w, net.labelable, rows))
    made.append(fake)
    back.append(translate(net, generators[there], fake))
  stack = jnp.stack
  return Passes(stack(own), stack(other), stack(made), stack(back), statistics)


def adversarial_terms(
  discriminator: PatchGan,
  params: Any,
  real: Images,
  made: Images,
  shown: Images,
) -> dict[str, PerModality]:
  """The game between translators and discriminators (least squares).

  Args:
    discriminator: the network.
    params: of both, by `passes.PAIR`.
    real: slices in [-1, 1].
    made: translations of the other modality's slices into this one.
    shown: those that discriminators are shown, see `image_pool`.

  Returns:
    `generator`, which moves `made` alone, and `discriminator`, which moves
    `params` alone; by the modality that is translated into.
  """
  apply = lambda p, x: discriminator.apply({'params': p}, x)
  judged, of_real, of_made = [], [], []
  for k, name in enumerate(passes.PAIR):
    judged.append(apply(lax.stop_gradient(params[name]), made[k]))
    both = jnp.concatenate([real[k], lax.stop_gradient(shown[k])])
    scores = apply(params[name], both)
    of_real.append(scores[: len(real[k])])
    of_made.append(scores[len(real[k]) :])
  distance = lambda x, wanted: losses.mean(jnp.square(jnp.stack(x) - wanted))
  return {
    'generator': distance(judged, 1.0),
    'discriminator': (distance(of_real, 1.0) + distance(of_made, 0.0)) / 2,
  }


def _exchange(step: Step, pool, made):
  """What discriminators are shown of `made`, and the pool afterwards."""
  size = step.config.batch_size
  index = step.batch['labeled']['index'] % size
  position = jnp.concatenate([index, index + size], 1)
  key = jax.random.fold_in(step.key, 1)
  return image_pool.exchange(pool, made, position, 2 * size, key)


def _loss(step, params, memory):
  """The loss, with memory and metrics; see `base.Method`."""
  net, signals = step.net, step.signals
  views = passes.views(step)
  images = jnp.concatenate([views.images, views.weak], 1)
  found = _forward(net, params, memory, images)
  count, signed = views.images.shape[1], to_signed(images)
  terms = supervision.labeled_terms(step, found.own[:, :count], views.labels)
  made = found.made[::-1]
  shown, pool = _exchange(step, memory['pool'], made)
  terms |= adversarial_terms(
    _discriminator(net), params['discriminator'], signed, made, shown
  )
  distance = jnp.abs(found.back - signed)
  terms['cycle'] = CYCLE * losses.mean(distance)
  on = passes.acting(step)
  # A translated label needs no unlabelled slice.
  anyway = signals._replace(consistent=jnp.ones_like(signals.consistent))
  started = passes.acting(step._replace(signals=anyway))
  gate = lambda x: supervision.gate(x, started[:, None, None, None, None])
  own, other = gate(found.own), gate(found.other)
  translated = supervision.labeled_terms(
    step, other[:, :count], views.labels, name='translated'
  )
  ramp = plain.ramp(step)
  difference = co_training.symmetric_divergence(own, other)
  taught = {'consistency': losses.mean(difference)}
  taught |= co_training.terms(
    step, own[:, count:], other[:, count:], views.possible
  )
  taught = {name: ramp * term for name, term in taught.items()}
  terms |= {name: jnp.where(started, x, 0.0) for name, x in translated.items()}
  terms |= {name: jnp.where(on, x, 0.0) for name, x in taught.items()}
  told = supervision.judged(step, views.labels)
  counts = losses.dice_counts(found.own[:, :count], views.labels, told)
  memory = {'modulation': found.statistics, 'pool': pool}
  value = jnp.sum(signals.weights * sum(terms.values()))
  return value, (memory, {**terms, 'dice_counts': counts})


def _predict(net: Networks, params, memory, images, modality):
  """Logits of each image by its modality's segmenter, in evaluation mode."""
  ids = jnp.zeros_like(modality)
  first, second = (
    net.predictor.apply(_tested(params, memory, name), images, ids, False)
    for name in passes.PAIR
  )
  chosen = (modality == 0)[:, None, None, None]
  logits = jnp.where(chosen, first, second)
  return losses.only_labelable(logits, net.labelable, modality)


def _tested(params, memory, name):
  return {
    'params': params['segmenter'][name],
    'modulation': memory['modulation'][name],
  }


def _counted(net, params, memory, image):
  """All six networks; see `base.Method`."""
  ids = jnp.zeros(len(image), jnp.int32)
  for name in passes.PAIR:
    net.predictor.apply(_tested(params, memory, name), image, ids, False)
    translate(net, params['generator'][name], image)
    _discriminator(net).apply({'params': params['discriminator'][name]}, image)
  return params
