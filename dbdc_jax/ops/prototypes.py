"""MLPB, the modality-level prototype bank, and MPCL (equations 4 to 12).

The bank is state, not parameters: unit vectors of D values, one per modality
and class. No gradient ever flows into it. Embeddings come grouped by modality,
those of n pixels of each on this device.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from dbdc_jax.ops import losses
from dbdc_jax.ops.shapes import Scalar
from dbdc_jax.ops.sinkhorn import sinkhorn
from dbdc_jax.runtime import over_devices
from dbdc_jax.runtime.precision import EXACT

# Smaller values give NaN or huge gradients at (nearly) zero vectors.
NORM_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5


class Prototypes(NamedTuple):
  """The prototype bank.

  Attributes:
    bank: unit vectors (zero until started).
    sums: of labelled embeddings, for the start.
    counts: pixels in `sums`.
    ready: whether each class of the modality has been seen.
  """

  bank: Float[Array, 'K C D']
  sums: Float[Array, 'K C D']
  counts: Float[Array, 'K C']
  ready: Bool[Array, ' K']


def init(num_modalities: int, num_classes: int, dim: int) -> Prototypes:
  """Returns an empty bank: nothing is ready before labels were seen."""
  shape = (num_modalities, num_classes, dim)
  return Prototypes(
    bank=jnp.zeros(shape),
    sums=jnp.zeros(shape),
    counts=jnp.zeros(shape[:2]),
    ready=jnp.zeros(shape[:1], bool),
  )


def normalize(x: Float[Array, '*axes D']) -> Float[Array, '*axes D']:
  """Unit vectors along the last axis, with a finite gradient at zero."""
  return x * lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + NORM_EPSILON)


def _class_sums(
  embeddings: Float[Array, 'K n D'],
  labels: Integer[Array, 'K n'],
  keep: Bool[Array, 'K n'],
  num_classes: int,
) -> tuple[Float[Array, 'K C D'], Float[Array, 'K C']]:
  """Sums and counts of the kept pixels per class."""
  chosen = losses.one_hot(labels, num_classes) & keep[..., None]
  weights = chosen.astype(jnp.float32)
  # Selected first: 0 * NaN of a pixel that is left out would spread.
  embeddings = jnp.where(keep[..., None], embeddings, 0.0)
  sums = jnp.einsum('knc,knd->kcd', weights, embeddings, precision=EXACT)
  return over_devices.total((sums, weights.sum(1)))


def start(
  state: Prototypes,
  embeddings: Float[Array, 'K n D'],
  labels: Integer[Array, 'K n'],
  kept: Bool[Array, 'K n'],
  present: Bool[Array, 'K C'],
) -> Prototypes:
  """Gathers labelled embeddings until a modality has seen all its classes.

  The first prototypes are the normalised mean embeddings of labelled pixels.
  A modality that is ready is left alone.

  Args:
    state: the bank.
    embeddings: of labelled pixels.
    labels: their classes.
    kept: pixels whose class the label says.
    present: classes that the modality's labels contain.
  """
  embeddings = lax.stop_gradient(embeddings)
  sums, counts = _class_sums(embeddings, labels, kept, present.shape[-1])
  waiting = ~state.ready
  sums = jnp.where(waiting[:, None, None], state.sums + sums, state.sums)
  counts = jnp.where(waiting[:, None], state.counts + counts, state.counts)
  complete = jnp.all((counts > 0) | ~present, -1)
  first = normalize(sums / jnp.maximum(counts, 1.0)[..., None])
  opens = (waiting & complete)[:, None, None] & present[..., None]
  return Prototypes(
    bank=jnp.where(opens, first, state.bank),
    sums=sums,
    counts=counts,
    ready=state.ready | complete,
  )


def similarity(
  embeddings: Float[Array, 'K n D'], bank: Float[Array, 'J C D']
) -> Float[Array, 'K n J C']:
  """S: cosine of each pixel with each modality's prototypes (unit vectors)."""
  return jnp.einsum(
    'knd,jcd->knjc', embeddings, lax.stop_gradient(bank), precision=EXACT
  )


def own(similarities: Float[Array, 'K n K C']) -> Float[Array, 'K n C']:
  """The pixels' similarities to their own modality's bank."""
  return jnp.stack([similarities[k, :, k] for k in range(len(similarities))])


def assign(
  scores: Float[Array, 'K n C'],
  mask: Bool[Array, 'K n'],
  present: Bool[Array, 'K C'],
  *,
  epsilon: float,
  iterations: int,
) -> Integer[Array, 'K n']:
  """Class of each pixel by Sinkhorn-Knopp, one problem per modality (eq 4-6).

  Args:
    scores: similarities to the modality's own prototypes.
    mask: pixels that take part.
    present: classes that take part.
    epsilon: entropy weight (the paper's phi).
    iterations: Sinkhorn iterations.
  """
  soft = jax.vmap(
    lambda s, m, p: sinkhorn(s, epsilon, iterations, mask=m, class_mask=p)
  )(scores, mask, present)
  return jnp.argmax(soft, -1).astype(jnp.int32)


def update(
  state: Prototypes,
  embeddings: Float[Array, 'K n D'],
  labels: Integer[Array, 'K n'],
  kept: Bool[Array, 'K n'],
  *,
  momentum: Scalar | float,
) -> tuple[Prototypes, Float[Array, 'K C']]:
  """Moves each prototype towards the mean of its kept pixels (eq 7).

  `p <- normalise(alpha p + (1 - alpha) normalise(mean of kept embeddings))`;
  a class without kept pixels, and a modality that is not ready, stays.

  Args:
    state: the bank.
    embeddings: of the pixels.
    labels: labels or pseudo-labels.
    kept: pixels whose assignment equals their label.
    momentum: alpha.

  Returns:
    The bank, and numbers of kept pixels.
  """
  sums, counts = _class_sums(
    lax.stop_gradient(embeddings), labels, kept, state.bank.shape[1]
  )
  mean = normalize(sums / jnp.maximum(counts, 1.0)[..., None])
  moved = normalize(momentum * state.bank + (1 - momentum) * mean)
  move = (counts > 0) & state.ready[:, None]
  bank = jnp.where(move[..., None], moved, state.bank)
  return state._replace(bank=bank), counts


def prototype_logits(
  scores: Float[Array, 'K n C'],
  present: Bool[Array, 'K C'],
  scale: Float[Array, ' C'],
  bias: Float[Array, ' C'],
) -> Float[Array, 'K n C']:
  """LayerNorm of the similarities over the classes that take part.

  Raw cosines cap the best softmax far below 1; the affine LayerNorm (shared by
  the modalities) gives the logits room.

  Returns:
    Logits; classes that are not present get no weight.
  """
  mask = present[:, None, :]
  count = jnp.sum(mask, -1, keepdims=True)
  mean = jnp.sum(jnp.where(mask, scores, 0.0), -1, keepdims=True) / count
  centred = jnp.where(mask, scores - mean, 0.0)
  variance = jnp.sum(centred**2, -1, keepdims=True) / count
  normed = centred * lax.rsqrt(variance + LAYER_NORM_EPSILON)
  return jnp.where(mask, normed * scale + bias, losses.NEGATIVE)


def mpcl_terms(
  state: Prototypes,
  embeddings: Float[Array, 'K n D'],
  labels: Integer[Array, 'K n'],
  present: Bool[Array, 'K C'],
  scale: Float[Array, ' C'],
  bias: Float[Array, ' C'],
  *,
  temperature: float,
  across: Scalar | float = 1.0,
  sure: Bool[Array, 'K n'] | None = None,
) -> dict[str, Float[Array, ' K']]:
  """The four terms of MPCL (eq 8 to 11) for one view.

  Args:
    state: the bank from before this step's update.
    embeddings: unit vectors.
    labels: labels or pseudo-labels.
    present: classes that each modality's labels contain.
    scale: of the prototype logits' LayerNorm.
    bias: of the same.
    temperature: tau of L_pc.
    across: what the other modalities' prototypes count in L_mc: 1 pushes
      away from them, as printed, -1 draws to them.
    sure: pixels that count; means are over all.

  Returns:
    `{'pseg', 'mc', 'pc', 'pd'}`; 0 for a modality whose bank is
    not ready.
  """
  num_modalities, num_classes, _ = state.bank.shape
  similarities = similarity(embeddings, state.bank)  # [K, n, J, C]
  scores = own(similarities)
  chosen = losses.one_hot(labels, num_classes)  # [K, n, C]
  positive = jnp.sum(jnp.where(chosen, scores, 0.0), -1)  # [K, n]

  logits = prototype_logits(scores, present, scale, bias)
  counted = None if sure is None else sure[..., None]
  pseg = 0.5 * losses.dice(logits, labels, present, counted=counted)
  pseg += 0.5 * losses.cross_entropy(logits, labels, sure)

  counts = jnp.ones_like(labels, bool) if sure is None else sure
  mean = lambda values: losses.mean(jnp.where(counts, values, 0.0))
  mc = -mean(positive)
  if num_modalities > 1:
    # Same class, other modalities: only banks that are ready and know it.
    others = jnp.sum(jnp.where(chosen[:, :, None], similarities, 0.0), -1)
    known = jnp.any(chosen[:, :, None] & present, -1)  # [K, n, J]
    other = ~jnp.eye(num_modalities, dtype=bool)[:, None]
    mask = known & state.ready & other
    others = jnp.where(counts[..., None], others, 0.0)
    mc += across * losses.masked_mean(others, mask)
  else:
    mc = jnp.zeros_like(mc)

  masked = jnp.where(present[:, None], scores / temperature, losses.NEGATIVE)
  terms = {
    'pseg': pseg,
    'mc': mc,
    'pc': losses.cross_entropy(masked, labels, sure),
    'pd': mean((1 - positive) ** 2),
  }
  return {k: jnp.where(state.ready, v, 0.0) for k, v in terms.items()}


def cross_modality_cosine(bank: Float[Array, 'K C D']) -> Float[Array, ' C']:
  """Mean cosine of a class's prototypes across modalities.

  1 means that the bank holds nothing modality-specific for the class.
  """
  count = bank.shape[0]
  if count == 1:
    return jnp.ones(bank.shape[1])
  gram = jnp.einsum('jcd,kcd->cjk', bank, bank, precision=EXACT)
  off = gram.sum((1, 2)) - jnp.trace(gram, axis1=1, axis2=2)
  return off / (count * (count - 1))
