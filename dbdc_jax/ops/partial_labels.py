"""Partial labels: what a label map says where not everything was drawn.

A slice's label map was drawn for some classes (`drawn`). Where it shows none of
them, it says that the pixel is none of them, and no more: it may be background,
or a class that nobody drew there. A pixel that nobody looked at is `UNKNOWN`.

So a pixel has a set of classes that it may be, and the loss is that of the
set's probability (Shi et al., "Marginal loss and exclusion loss for partially
supervised multi-organ segmentation", 2021). Of what is in the set a label map
says nothing: how the background and the undrawn classes share it is learnt from
slices in which these were drawn. A class that was drawn in no scan of a
modality has no part in its losses (`asked`). Pseudo-labels, too, are one of
what a pixel may be.
"""

import jax
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


def asked(logits: Logits, drawn: Drawn, present: Present) -> Logits:
  """Logits without those of classes that nobody drew in any scan.

  No softmax gives these any weight, so that their gradient is exactly 0.
  """
  some = drawn | present[:, None]
  return jnp.where(some[..., None, None, :], logits, losses.NEGATIVE)


def surprise(
  logits: Logits, labels: Labels, drawn: Drawn
) -> Float[Array, 'K b H W']:
  """-log(probability of what a pixel may be), in nats.

  Where all was drawn it is the usual cross entropy.

  Args:
    logits: of each pixel, `asked`.
    labels: class indices, or `UNKNOWN`.
    drawn: of each slice.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  allowed = jnp.where(possible(labels, drawn), log_p, losses.NEGATIVE)
  return -jax.nn.logsumexp(allowed, -1)


def cross_entropy(logits: Logits, labels: Labels, drawn: Drawn) -> PerModality:
  """Mean of `surprise` over the pixels that somebody looked at."""
  return losses.masked_mean(surprise(logits, labels, drawn), labels != UNKNOWN)
