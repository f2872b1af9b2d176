"""RAM-DSIR: from one modality to an unseen one (paper's Table I, "RAM-DSIR").

Zhou, Qi, Shi, "Generalizable medical image segmentation via random amplitude
mixup and domain-specific image restoration" (2022). Of an image x of the source
with the spectrum A exp(i P), and another image's amplitude A':

  RAM(x) = inverse(A_mixed exp(i P)),  |frequency| <= b in both directions:
           A_mixed = r A + (1 - r) A',  r in {0.1, ..., 1};  elsewhere A
  loss   = (CE + Dice)(x) + (CE + Dice)(RAM(x)) + 0.5 KL + 0.1 L_restoration

Dice without background; KL is the mean over pixels and classes of
p ln(p / q) + q ln(q / p) between both predictions, with gradients of both; the
restoration decoder turns the features of RAM(x) into x again (squared error).
b is a tenth of the image's side; images lie in [-1, 1], and RAM(x) is cut off
there.

Domain generalisation: the target is tested and in no other way looked at. The
published code takes the checkpoint that is best on the target's test set; here
validation scans of the source choose it. Its donors A' are of another source
domain; with one there is none, and other training images of the source stand in
(their labels are not asked for, so that unlabelled ones can). What the source
has is `labeled_fraction` of its labels, with `ram_dsir_full` all of them.

`recipe=own`: Adam of rate 1e-3, half of it in the encoder, no scaling and no
intensity curves.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from dbdc_jax.methods.common import adaptation, passes, supervision, transfer
from dbdc_jax.models.ram_dsir import RamDsir
from dbdc_jax.ops import losses
from dbdc_jax.ops.shapes import Slices

# Also with a fully labelled source (the paper's "RAM-DSIR*").
NAMES = ('ram_dsir', 'ram_dsir_full')
# r is one of so many equal steps.
_RATIOS = 10
_OWN_RATE = 1e-3
_OWN_ENCODER = 0.5


def _own_tx() -> optax.GradientTransformation:
  adam = optax.scale_by_adam()
  parts = {'encoder': optax.chain(adam, optax.scale(_OWN_ENCODER)), '': adam}
  which = lambda name: 'encoder' if name.startswith('encoder') else ''
  return optax.multi_transform(
    parts, lambda params: {name: which(name) for name in params}
  )


def mix_amplitude(
  images: Slices, donors: Slices, ratio: Float[Array, ' N'], window: float
) -> Slices:
  """Random amplitude mixup: low frequencies' strength is partly the donor's.

  Args:
    images: in [-1, 1].
    donors: in the same.
    ratio: share that stays the image's own; 1 changes nothing.
    window: the largest mixed frequency, as a share of the shorter side.

  Returns:
    Float32 in [-1, 1].
  """
  size = images.shape[1:3]
  reach = int(window * min(size))
  low = [jnp.abs(jnp.fft.fftfreq(s) * s) <= reach + 0.5 for s in size]
  mixed = (low[0][:, None] & low[1])[..., None]
  spectrum = lambda x: jnp.fft.fft2(x.astype(jnp.float32), axes=(1, 2))
  own, given = spectrum(images), jnp.abs(spectrum(donors))
  amplitude = jnp.abs(own)
  r = ratio[:, None, None, None]
  amplitude = jnp.where(mixed, r * amplitude + (1 - r) * given, amplitude)
  turned = amplitude * jnp.exp(1j * jnp.angle(own))
  return jnp.clip(jnp.fft.ifft2(turned, axes=(1, 2)).real, -1.0, 1.0)


def divergence(
  logits: Float[Array, '*pixels C'], others: Float[Array, '*pixels C']
) -> Float[Array, '*pixels']:
  """Symmetric KL of each pixel, averaged over the classes."""
  return jnp.mean(losses.symmetric_divergence(logits, others), -1)


def _segment(net, variables, images):
  """Logits, without the restoration."""
  return net.predictor.apply(
    variables, 2 * images - 1, False, method='segmentation'
  )


def _counted(net, params, memory, image):
  """An image and its mixed form; see `base.Method`."""
  for _ in range(2):
    net.predictor.apply({'params': params, **memory}, image, False)
  return params


def _views(step):
  """Images, mixed images `[b, H, W, 1]` and labels `[1, b, H, W]`."""
  views = passes.views(step)
  images, donors = 2 * views.images[0] - 1, 2 * views.weak[0] - 1
  draw = lambda key: jax.random.randint(key, (), 1, _RATIOS + 1) / _RATIOS
  ratio = jax.vmap(draw)(views.keys[0])
  window = step.config.ram_dsir.window
  return images, mix_amplitude(images, donors, ratio, window), views.labels


def _loss(step, params, memory):
  """The loss, with memory and metrics; see `base.Method`."""
  config, net = step.config.ram_dsir, step.net
  step = transfer.step_of_source(step)
  images, mixed, labels = _views(step)
  apply = functools.partial(net.unet.apply, mutable=['modulation'])
  variables = {'params': params, **memory}
  logits, statistics = apply(variables, images, True, method='segmentation')
  variables = {'params': params, **statistics}
  (other, restored), statistics = apply(variables, mixed, True)
  ids = jnp.full(len(images), transfer.SOURCE)
  logits, other = (
    losses.only_labelable(x, net.labelable, ids)[None] for x in (logits, other)
  )
  present = transfer.of_source(step.signals.present).at[:, 0].set(False)
  step = step._replace(signals=step.signals._replace(present=present))
  terms: dict[str, Array] = {}
  for name, x in (('sup', logits), ('sup_mixed', other)):
    terms |= supervision.labeled_terms(step, x, labels, name=name)
  error = jnp.square(restored - images)[None]
  terms['consistency'] = config.consistency * losses.mean(
    divergence(logits, other)
  )
  terms['restoration'] = config.restoration * losses.mean(error)
  value: Any = sum(terms.values())
  terms = {name: transfer.rows(x[0]) for name, x in terms.items()}
  return adaptation.outcome(step, terms, value[0], (logits, labels), statistics)


build = functools.partial(
  adaptation.build,
  network=RamDsir,
  selected_on=transfer.SOURCE,
  own=(_own_tx(), _OWN_RATE),
  loss=_loss,
  segment=_segment,
  counted=_counted,
)
