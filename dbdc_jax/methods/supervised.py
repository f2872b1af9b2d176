"""The plain U-Net on labelled scans, one network per modality.

Rows "UNet (LB)" and "UNet (UB)" of the paper's Tables I and II: the lower
bound trains on the labelled share, the upper bound on `labeled_fraction=1`.
Loss: cross entropy + Dice (the paper's eq 21 without its MPCL term).
"""

import jax.numpy as jnp
import ml_collections

from data import task_file
from dbdc_jax import augment, losses
from dbdc_jax.methods import base
from dbdc_jax.models import fit
from dbdc_jax.models.unet import UNet
from dbdc_jax.precision import compute_dtype


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`."""
  task = task_file.find(config.task)
  labelable = task.labelable(task.select(config.modalities))
  if len(labelable) != 1:
    # The loop trains one such network per modality (joint=False).
    return base.Method(None, None, None, None, joint=False, unlabeled=False)
  net = UNet(
    num_classes=len(task.classes),
    num_modalities=1,
    width=config.model.width,
    axis_name=axis_name,
    grouped=True,
    dtype=compute_dtype(config.dtype),
  )
  settings = augment.Augmentation(**config.augment)

  def init(key):
    patch = jnp.zeros((1, settings.patch_size, settings.patch_size, 1))
    variables = net.init(key, patch, jnp.zeros(1, jnp.int32), False)
    return variables['params'], {'modulation': variables['modulation']}

  def loss(params, memory, batch, key, signals):
    labeled = batch['labeled']
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    keys = augment.sample_keys(key, flat(labeled['index']))
    images, labels = augment.labeled_view(
      flat(labeled['image']), flat(labeled['label']), keys, settings
    )
    modality = jnp.zeros(images.shape[0], jnp.int32)
    variables = {'params': params, **memory}
    logits, memory = net.apply(
      variables, images, modality, True, mutable=['modulation']
    )
    # One modality: K = 1.
    logits = losses.only_labelable(logits[None], labelable, jnp.arange(1))
    labels = labels[None]
    terms = {
      'sup_ce': losses.cross_entropy(logits, labels, axis_name),
      'sup_dice': losses.dice(logits, labels, signals.present, axis_name),
    }
    value = jnp.sum(signals.weights * sum(terms.values()))
    counts = losses.dice_counts(logits, labels, axis_name)
    return value, (memory, {**terms, 'dice_counts': counts})

  def predict(params, memory, images, modality):
    logits = net.apply({'params': params, **memory}, images, modality, False)
    return losses.only_labelable(logits, labelable, modality)

  def fit_of(params, memory, images, modality):
    variables = {'params': params, **memory}
    *_, gap = fit.statistics_gap(net, variables, images, modality)
    return gap, jnp.full((), jnp.nan)

  return base.Method(
    init,
    loss,
    predict,
    base.keep_memory,
    joint=False,
    unlabeled=False,
    fit=fit_of,
  )
