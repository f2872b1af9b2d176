"""Partial labels: what a label map says where not everything was drawn.

A slice's label map was drawn for some classes (`drawn`). Where it shows none of
them, it says that the pixel is none of them, and no more: it may be background,
or a class that nobody drew there. A pixel that nobody looked at is `UNKNOWN`.

So a pixel has a set of classes that it may be, and the loss is that of the
set's probability (Shi et al., "Marginal loss and exclusion loss for partially
supervised multi-organ segmentation", 2021). Other than there, the logits of
classes that nobody drew in a slice, and that of the background unless all were
drawn, get no gradient from its label map (`gated`).
"""

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dbdc_jax.ops import losses
from dbdc_jax.ops.shapes import Labels, Logits, PerModality, Present
from dbdc_jax.runtime import over_devices

# What labels hold where nobody looked: that of `data.task`.
UNKNOWN = 255

# Classes that each slice's label map was drawn for; the background's entry says
# whether all were that the modality's label maps can have.
Drawn = Bool[Array, 'K b C']


def known(labels: Labels, drawn: Drawn) -> Bool[Array, 'K b H W']:
  """Where a label says which class a pixel is."""
  background = drawn[..., 0][..., None, None]
  return (labels != UNKNOWN) & ((labels > 0) | background)


def possible(labels: Labels, drawn: Drawn) -> Bool[Array, 'K b H W C']:
  """Which classes each pixel may be."""
  chosen = losses.one_hot(labels, drawn.shape[-1])
  hidden = (labels == 0)[..., None] & ~drawn[..., None, None, :]
  return chosen | hidden | (labels == UNKNOWN)[..., None]


def judged(labels: Labels, drawn: Drawn) -> Bool[Array, 'K b H W C']:
  """Of which classes a label says whether a pixel is one."""
  return drawn[..., None, None, :] & (labels != UNKNOWN)[..., None]


def seen(present: Present, told: Bool[Array, 'K b H W C']) -> Present:
  """Present classes of which a step's labels say anything (`judged`)."""
  anywhere = jnp.sum(told.astype(jnp.float32), (1, 2, 3))
  return present & (over_devices.total(anywhere) > 0)


def gated(logits: Logits, drawn: Drawn) -> Logits:
  """Logits whose gradient is exactly 0 for what was not drawn."""
  still = lax.stop_gradient(logits)
  return jnp.where(drawn[..., None, None, :], logits, still)


def surprise(
  logits: Logits, labels: Labels, drawn: Drawn
) -> Float[Array, 'K b H W']:
  """-log(probability of what a pixel may be), in nats.

  Where all was drawn it is the usual cross entropy.

  Args:
    logits: of each pixel, `gated`.
    labels: class indices, or `UNKNOWN`.
    drawn: of each slice.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  allowed = jnp.where(possible(labels, drawn), log_p, losses.NEGATIVE)
  return -jax.nn.logsumexp(allowed, -1)


def cross_entropy(logits: Logits, labels: Labels, drawn: Drawn) -> PerModality:
  """Mean of `surprise` over the pixels that somebody looked at."""
  return losses.masked_mean(surprise(logits, labels, drawn), labels != UNKNOWN)
