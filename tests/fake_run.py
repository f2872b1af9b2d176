"""A run whose network says what a pixel's value is: nothing is trained."""

import pathlib

import jax.numpy as jnp
import numpy as np

from configs import common
from data.task import Intensity, Modality, Task
from dbdc_jax.inference import segmentation
from dbdc_jax.inference.trained_run import TrainedNetwork, TrainedRun
from dbdc_jax.methods import Method, Traits

CLASSES = ('background', 'grey', 'white')
CODES = {0: 0, 420: 1, 7: 2}
PATCH = 16


def predict(params, memory, images, modality):
  """Class 0, 1 or 2 by the value: around 0, 0.5 or 1."""
  del params, memory, modality
  centres = jnp.array([0.0, 0.5, 1.0])
  return -200 * jnp.square(images - centres)


METHOD = Method(
  init=None,
  loss=None,
  predict=predict,
  update=None,
  counted=None,
  traits=Traits(unlabeled=False),
  recipe=None,
)


def make(
  mm=1.0,
  roi='none',
  folder='run',
  codes=None,
  modalities=('ct',),
  plane='axial',
):
  """A `TrainedRun` with a pixel side of `mm`."""
  kinds = tuple(
    Modality(
      *(n, n.upper(), 'folder', n, codes or CODES, Intensity((0.0, 100.0))),
      plane=plane,
    )
    for n in modalities
  )
  config = common.base()
  config.augment.patch_size = PATCH
  config.data.roi = roi
  config.data.slice_size = 2 * PATCH
  return TrainedRun(
    folder=pathlib.Path(folder),
    config=config,
    task=Task('greys', CLASSES, kinds, 2 * PATCH, roi),
    modalities=kinds,
    mm_per_pixel=dict.fromkeys(modalities, mm),
    networks={n: TrainedNetwork(METHOD, None, None, 0) for n in modalities},
  )


def segmenter(*runs, **options):
  return segmentation.Segmenter(list(runs) or [make()], **options)


def blocks(shape):
  """Values 0, 50 and 100: a grey block, and a white one behind it."""
  voxels = np.zeros(shape, np.int16)
  first, middle, last = (
    [round(n * share) for n in shape] for share in (0.25, 0.5, 0.8)
  )
  inside = tuple(slice(a, b) for a, b in zip(first[1:], last[1:], strict=True))
  voxels[(slice(first[0], middle[0]), *inside)] = 50
  voxels[(slice(middle[0], last[0]), *inside)] = 100
  return voxels
