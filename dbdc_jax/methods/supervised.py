"""The plain U-Net on labelled scans, one network per modality.

Rows "UNet (LB)" and "UNet (UB)" of the paper's Tables I and II: the lower
bound trains on the labelled share, the upper bound on `labeled_fraction=1`.
Loss: cross entropy + Dice (the paper's eq 21 without its MPCL term);
`recipe=own` halves both, as the semi-supervised methods always do.
"""

import functools

from dbdc_jax.methods.common import passes, plain, supervision


def _loss(step, params, memory):
  images, labels = passes.labeled_view(step, step.key)
  logits, statistics = passes.forward(
    step, params, memory['modulation'], images
  )
  share = plain.HALF if step.net.own else 1.0
  terms = supervision.labeled_terms(step, logits, labels, share=share)
  return plain.Outcome(terms, {}, logits, labels, statistics)


build = functools.partial(plain.build, loss=_loss, unlabeled=False)
