"""Cross pseudo supervision (row "CPS" of the paper's Table II).

Chen, Yuan, Zeng, Wang, "Semi-supervised semantic segmentation with cross pseudo
supervision" (2021). Two networks of different starts see all slices, and each
learns from the other's hard pseudo-labels:

  loss_i = (CE + Dice) / 2 + w(t) CE(network_i, argmax network_j)

on labelled and on unlabelled slices, without a threshold. The first network is
validated and tested. The original also mixes images (CutMix); the common 2-D
code that the paper's row is taken from does not, nor is it done here. Its two
optimizers have the same rate: they are one.
"""

import functools

from jaxtyping import Array

from dbdc_jax.methods.common import passes, plain, supervision
from dbdc_jax.ops import losses


def _loss(step, params, memory):
  views = passes.views(step)
  logits, unlabeled, statistics = passes.pair_forward(
    step, params, memory, views
  )
  labeled: dict[str, Array] = {}
  for name, suffix in zip(passes.PAIR, ('', '2'), strict=True):
    labeled |= supervision.labeled_terms(
      step, logits[name], views.labels, name=f'sup{suffix}', share=plain.HALF
    )
  first, second = unlabeled.values()
  present = step.signals.present
  terms = {
    'cross_ce': losses.cross_entropy(
      first, supervision.pseudo_labels(second, present)
    ),
    'cross2_ce': losses.cross_entropy(
      second, supervision.pseudo_labels(first, present)
    ),
  }
  tested = logits[passes.PAIR[0]]
  return plain.Outcome(labeled, terms, tested, views.labels, statistics)


build = functools.partial(plain.build, loss=_loss, pair=True)
