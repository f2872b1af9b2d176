"""VarDA: from a labelled modality to an unlabelled one (Table I, "VarDA").

Wu and Zhuang, "Unsupervised domain adaptation with variational approximation
for cardiac segmentation" (2021). The decoder of a U-Net goes on from Gaussian
latents at three scales (`models/varda.py`). They are pulled to the standard
normal distribution, have to allow that the image is drawn from them and its
segmentation, and are pulled to those of the other modality
(`domain_distance.py`):

  loss = 1000 (CE_full + CE_fused + CE_1/2 + CE_1/4)                   source
         + sum over scales of 10 BCE(image, drawn) + KL      source and target
         + 0.001 (D_full + D_1/2 + 0.1 D_1/4)
  KL   = -1/2 mean(1 + log v - m^2 - v),   mean m and variance v of a latent

CE is balanced: the mean over the classes of the batch of each one's mean. What
is drawn is conditioned on the label in the source and on the softmax in the
target.

Readings: at a lower scale the image is the mean over squares of pixels, the
label every second or fourth pixel; the gradient goes through the softmax that
is drawn from; levels are doubled bilinearly before the fusion. D is published
as a sum over the latents' elements and the pairs of 10 + 10 images of 160 x 160
pixels: here a mean times the number of these, which is the same there and keeps
its weight at other sizes. As published, the source's unlabelled scans are not
used. All the target's training scans are, without labels, those that the split
calls labelled included.

The published "general" script names an undefined class and selects by the
target's scores; here the target's validation scans choose the checkpoint.

`recipe=own`: Adam of rate 1e-3 with a weight decay of 1e-5, no scaling and no
intensity curves; its rate falls as all do, not by a tenth each epoch, and the
weights start as all do.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import optax

from dbdc_jax.methods.common import adaptation, passes, supervision, transfer
from dbdc_jax.models.varda import SCALES, VarDA
from dbdc_jax.ops import domain_distance, losses, partial_labels
from dbdc_jax.ops.shapes import Present
from dbdc_jax.runtime import over_devices

# Also with a fully labelled source (the paper's "VarDA*").
NAMES = ('varda', 'varda_full')
_OWN_RATE = 1e-3
_OWN_DECAY = 1e-5
# Of the distances at 1/4, 1/2 and 1 of the resolution.
_SHARES = (0.1, 1.0, 1.0)
# The published distances are sums: over the pairs of so many images of each
# domain, and over so many elements of a pooled latent (160 x 160 pixels).
_PUBLISHED_BATCH = 10
_PUBLISHED_ELEMENTS = (10 * 10 * 256, 20 * 20 * 128, 40 * 40 * 64)


def balanced_cross_entropy(
  logits: Float[Array, 'n H W C'],
  labels: Integer[Array, 'n H W'],
  known: tuple[Present, partial_labels.Drawn] | None = None,
) -> Float[Array, '']:
  """Cross entropy in which each class of the batch weighs the same.

  Args:
    logits: of each pixel.
    labels: class indices, or `UNKNOWN`.
    known: the modality's classes, and what was drawn, `[1, n, C]`, see
      `partial_labels`; None: everything was. Pixels that are none of it weigh
      as background.

  Returns:
    The mean over the classes that occur of each one's mean.
  """
  chosen = losses.one_hot(labels, logits.shape[-1])
  if known is None:
    surprise = -jax.nn.log_softmax(logits.astype(jnp.float32))
  else:
    present, drawn = known
    logits = partial_labels.asked(logits[None], drawn, present)
    surprise = partial_labels.surprise(logits, labels[None], drawn)
    surprise = surprise[0, ..., None]
  sums = jnp.sum(jnp.where(chosen, surprise, 0.0), (0, 1, 2))
  counts = jnp.sum(chosen.astype(jnp.float32), (0, 1, 2))
  sums, counts = over_devices.total((sums, counts))
  means = sums / jnp.maximum(counts, 1.0)
  return jnp.sum(means) / jnp.maximum(jnp.sum(counts > 0), 1)


def divergence(
  mean: Float[Array, '*axes'], log_variance: Float[Array, '*axes']
) -> Float[Array, '*axes']:
  """KL divergence of each Gaussian from the standard one, elementwise."""
  mean, log_variance = (x.astype(jnp.float32) for x in (mean, log_variance))
  return -0.5 * (1 + log_variance - jnp.square(mean) - jnp.exp(log_variance))


def _segment(net, variables, images):
  """Logits by the one segmenter; latents are their mean."""
  return net.predictor.apply(variables, images, method='segment').fused


def _counted(net, params, memory, image):
  """Segmenter and the decoders of one domain; see `base.Method`."""
  variables = {'params': params, **memory}
  apply = functools.partial(net.predictor.apply, variables)
  found = apply(image, method='segment')
  values = [latent.value for latent in found.latents]
  shown = [jax.nn.softmax(x) for x in found.logits]
  apply(values, shown, transfer.SOURCE, False, method='draw')
  other = f'drawers_{transfer.TARGET}'
  return {k: v for k, v in params.items() if not k.startswith(other)}


def _smaller(images, scale):
  """`[N, H, W, 1]` images at a scale: means over squares of pixels."""
  side = 2 ** (SCALES - 1 - scale)
  return domain_distance.pooled(images, images, side)[0]


def _sparser(labels, scale):
  """`[N, H, W]` labels at a scale: every second or fourth pixel."""
  side = 2 ** (SCALES - 1 - scale)
  return labels[:, ::side, ::side]


def _evidence(step, images, latents, drawn):
  """Terms of what a domain's images say without labels, by name."""
  config = step.config.varda
  terms = {'drawing': 0.0, 'prior': 0.0}
  for scale, (latent, x) in enumerate(zip(latents, drawn, strict=True)):
    wanted = _smaller(images, scale)
    error = optax.sigmoid_binary_cross_entropy(x, wanted)
    gap = divergence(latent.mean, latent.log_variance)
    terms['drawing'] += config.drawing * losses.mean(error[None])[0]
    terms['prior'] += config.prior * losses.mean(gap[None])[0]
  return terms


def _distance(step, latents, count):
  """The term of the distance between the first `count` images and the rest.

  Beside the other terms, which are means, it weighs as much as published
  whatever the batch, the patch and the width.
  """
  total: Array | float = 0.0
  sizes = zip(_SHARES, _PUBLISHED_ELEMENTS, latents, strict=True)
  for share, elements, latent in sizes:
    mean, log_variance = (
      x.astype(jnp.float32) for x in (latent.mean, latent.log_variance)
    )
    described = domain_distance.pooled(mean, jnp.exp(log_variance))
    a, b = ([x[:count] for x in described], [x[count:] for x in described])
    total += share * elements * domain_distance.distance(a, b)
  return step.config.varda.distance * _PUBLISHED_BATCH**2 * total


def _both(net, params, memory, views):
  """One pass over source and target, and the images drawn from it.

  Returns:
    What was found for both, one after the other; of each, its latents and the
    images drawn from them; statistics.
  """
  source, target = transfer.SOURCE, transfer.TARGET
  labels, count = views.labels[source], views.labels.shape[1]
  images = jnp.concatenate([views.images[source], views.weak[target]])
  keys = views.keys.reshape(-1)
  variables = {'params': params, **memory}
  found = net.unet.apply(variables, images, keys, method='segment')
  ids = jnp.repeat(jnp.arange(2, dtype=jnp.int32), count)
  only = lambda x: losses.only_labelable(x, net.labelable, ids)
  found = found._replace(
    logits=[only(x) for x in found.logits], fused=only(found.fused)
  )
  classes = found.fused.shape[-1]
  shown = (
    [
      losses.one_hot(_sparser(labels, scale), classes)
      for scale in range(SCALES)
    ],
    [jax.nn.softmax(x[count:]) for x in found.logits],
  )
  of_each, statistics = [], memory
  for domain, part in ((source, slice(count)), (target, slice(count, None))):
    latents = jax.tree.map(lambda x, part=part: x[part], found.latents)
    drawn, statistics = net.unet.apply(
      {'params': params, **statistics},
      [latent.value for latent in latents],
      shown[domain],
      domain,
      True,
      method='draw',
      mutable=['modulation'],
    )
    of_each.append((latents, drawn))
  return found, of_each, statistics


def _loss(step, params, memory):
  """The loss, with memory and metrics; see `base.Method`."""
  views = passes.views(step)
  source, target = transfer.SOURCE, transfer.TARGET
  labels, count = views.labels[source], views.labels.shape[1]
  found, of_each, statistics = _both(step.net, params, memory, views)
  weight = step.config.varda.segmentation
  known = None
  if (drawn := supervision.drawn(step)) is not None:
    known = transfer.of_source((step.signals.present, drawn))
  balanced = functools.partial(balanced_cross_entropy, known=known)
  terms = {'sup_ce': weight * balanced(found.fused[:count], labels)}
  for scale, x in enumerate(found.logits):
    name = f'sup{2 ** (SCALES - 1 - scale)}_ce'
    terms[name] = weight * balanced(x[:count], _sparser(labels, scale))
  metrics = {name: transfer.rows(x) for name, x in terms.items()}
  shares = (
    _evidence(step, images, *mine)
    for images, mine in zip(
      (views.images[source], views.weak[target]), of_each, strict=True
    )
  )
  metrics |= jax.tree.map(transfer.rows, *shares)
  # Of both together: half of it in each row.
  apart = _distance(step, found.latents, count) / 2
  metrics['distance'] = transfer.rows(apart, apart)
  value = jnp.sum(sum(metrics.values()))
  answer = found.fused[None, :count], labels[None]
  return adaptation.outcome(step, metrics, value, answer, statistics)


_OWN_TX = optax.chain(
  optax.add_decayed_weights(_OWN_DECAY), optax.scale_by_adam()
)
build = functools.partial(
  adaptation.build,
  network=VarDA,
  selected_on=transfer.TARGET,
  own=(_OWN_TX, _OWN_RATE),
  loss=_loss,
  segment=_segment,
  counted=_counted,
)
