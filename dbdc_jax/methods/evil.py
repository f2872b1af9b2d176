"""Evidential inference learning (row "EVIL" of the paper's Table II).

Chen, Yang, Shen, Zhang, Lian, Shen, Zhang, "EVIL: Evidential inference learning
for trustworthy semi-supervised medical image segmentation" (2023). Two networks
as in `cps.py`; the first says how sure it is, by a Dirichlet distribution:

  evidence  e = exp(tanh(z_1) / 0.25)      in [0.018, 54.6]
  strength  alpha = e + 1, S = sum_c alpha_c
  belief    b = e / S, uncertainty u = C / S
  EDL(y)  = sum_c y_c (psi(S) - psi(alpha_c))
            + a KL[Dir(y + (1 - y) alpha) | Dir(1)]
  a       = min(1, 2 t / t_max),  t = 0, 1, ... epochs are done

Labelled: first (Dice(softmax(b)) + EDL) / 2, second (CE + Dice) / 2, Dice with
a linear denominator. Unlabelled, times w(t): the first learns EDL from the hard
pseudo-labels of the second; the second CE from those of the first, where
u < 0.2. Its sum over the kept pixels is divided by the number of all. The
first network is tested; it learns far more slowly than the second, in the
authors' own logs too (`docs/baselines.md`).

Different from the published code: a pixel that is left out there adds a
constant ln C without a gradient, here nothing; one-hot labels of four classes
and square images are not assumed; its predictions are softmax(b), here the
mean alpha / S of the distribution, which agree on the likeliest class. `own`
has its rates: SGD with weight decay 1e-3, falling with the power 0.99 in the
first network and 0.9 in the second.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Bool, Float
import optax

from dbdc_jax.methods.common import passes, plain, supervision
from dbdc_jax.ops import losses, optimizer, partial_labels

_TEMPERATURE = 0.25
_WEIGHT_DECAY = 1e-3
# Powers of the two networks' decay; the loop's rate has the second.
_POWERS = (0.99, 0.9)


def _own_tx() -> optax.GradientTransformation:
  sgd = optimizer.sgd(_WEIGHT_DECAY)
  faster = optimizer.scale_by_left(_POWERS[0] - _POWERS[1])
  first, second = passes.PAIR
  return optax.multi_transform(
    {first: optax.chain(sgd, faster), second: sgd},
    {first: first, second: second},
  )


def strengths(logits: Float[Array, '*pixels C']) -> Float[Array, '*pixels C']:
  """The Dirichlet's alpha, above 1, of the first network."""
  return 1 + jnp.exp(jnp.tanh(logits) / _TEMPERATURE)


def beliefs(alpha: Float[Array, '*pixels C']) -> Float[Array, '*pixels C']:
  """Evidence over strength: b."""
  return (alpha - 1) / jnp.sum(alpha, -1, keepdims=True)


def uncertainty(alpha: Float[Array, '*pixels C']) -> Float[Array, '*pixels']:
  """C over the strength: u, 1 where there is no evidence."""
  return alpha.shape[-1] / jnp.sum(alpha, -1)


def divergence(alpha: Float[Array, '*pixels C']) -> Float[Array, '*pixels']:
  """KL[Dir(alpha) | Dir(1)] in nats."""
  count = alpha.shape[-1]
  total = jnp.sum(alpha, -1)
  slopes = digamma(alpha) - digamma(total)[..., None]
  return (
    gammaln(total)
    - gammaln(jnp.float32(count))
    - jnp.sum(gammaln(alpha), -1)
    + jnp.sum((alpha - 1) * slopes, -1)
  )


def evidential_loss(
  alpha: Float[Array, '*pixels C'],
  chosen: Bool[Array, '*pixels C'],
  annealing: Float[Array, ''] | float,
) -> Float[Array, '*pixels']:
  """EDL of each pixel, in nats.

  Args:
    alpha: of the Dirichlet distribution.
    chosen: the pixel's class; or those that it may be, which are one: a sum of
      a Dirichlet's shares has the sum of their alphas.
    annealing: weight of the divergence.
  """
  own = jnp.sum(jnp.where(chosen, alpha, 0.0), -1)
  expected = digamma(jnp.sum(alpha, -1)) - digamma(own)
  others = jnp.where(chosen, 1.0, alpha)
  return expected + annealing * divergence(others)


def kept_cross_entropy(
  logits: losses.Logits, labels: losses.Labels, keep: Bool[Array, ' K *pixels']
) -> Float[Array, ' K']:
  """Cross entropy summed over the kept pixels, over the number of all."""
  log_p = jax.nn.log_softmax(logits)
  chosen = losses.one_hot(labels, logits.shape[-1]) & keep[..., None]
  return losses.mean(-jnp.sum(jnp.where(chosen, log_p, 0.0), -1))


def _labeled(step, alpha, logits, labels, edl):
  """Terms of labelled slices: alpha of the first, logits of the second."""
  supervise = functools.partial(
    supervision.labeled_terms,
    step,
    labels=labels,
    share=plain.HALF,
    linear_dice=True,
  )
  terms = supervise(beliefs(alpha), name='sup')
  # In the first network evidence takes the place of cross entropy.
  del terms['sup_ce']
  terms['sup_edl'] = plain.HALF * edl(alpha, labels, supervision.drawn(step))
  return terms | supervise(logits, name='sup2')


def _unlabeled(step, alpha, first, second, possible, edl):
  """Terms of unlabelled slices from alpha and both networks' logits."""
  sure = lax.stop_gradient(uncertainty(alpha)) < step.config.ssl.threshold
  pseudo = lambda x: supervision.pseudo_labels(
    x, step.signals.present, possible
  )
  return {
    'cross_edl': edl(alpha, pseudo(second)),
    'cross2_ce': kept_cross_entropy(second, pseudo(first), sure),
  }


def _loss(step, params, memory):
  views = passes.views(step)
  done = step.signals.progress - 1 / step.config.epochs
  annealing = jnp.minimum(1.0, 2 * done)

  def edl(alpha, labels, drawn=None):
    if drawn is None:
      chosen = losses.one_hot(labels, alpha.shape[-1])
      return losses.mean(evidential_loss(alpha, chosen, annealing))
    chosen = partial_labels.possible(labels, drawn)
    found = evidential_loss(alpha, chosen, annealing)
    return losses.masked_mean(found, labels != partial_labels.UNKNOWN)

  logits, unlabeled, statistics = passes.pair_forward(
    step, params, memory, views
  )
  (own, other), (first, second) = logits.values(), unlabeled.values()
  shown, there = own, supervision.drawn(step)
  if there is not None:
    # Before the strengths: their sum mixes the classes.
    shown = partial_labels.asked(own, there, step.signals.present)
  return plain.Outcome(
    _labeled(step, strengths(shown), other, views.labels, edl),
    _unlabeled(step, strengths(first), first, second, views.possible, edl),
    own,
    views.labels,
    statistics,
  )


build = functools.partial(
  plain.build,
  loss=_loss,
  pair=True,
  readout=lambda logits: jnp.log(strengths(logits)),
  own_tx=_own_tx(),
)
