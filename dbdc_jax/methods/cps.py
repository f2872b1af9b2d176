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
  for mine, name in zip(logits.values(), ('sup', 'sup2'), strict=True):
    labeled |= supervision.labeled_terms(
      step, mine, views.labels, name=name, share=plain.HALF
    )
  first, second = unlabeled.values()
  pseudo = lambda x: supervision.pseudo_labels(
    x, step.signals.present, views.possible
  )
  terms = {
    'cross_ce': losses.cross_entropy(first, pseudo(second)),
    'cross2_ce': losses.cross_entropy(second, pseudo(first)),
  }
  tested = logits[passes.PAIR[0]]
  return plain.Outcome(labeled, terms, tested, views.labels, statistics)


build = functools.partial(plain.build, loss=_loss, pair=True)
