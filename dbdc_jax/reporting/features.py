"""What the network makes of pixels: features, embeddings, prototypes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from data.task import UNKNOWN, to_float
from dbdc_jax.evaluation import pictures
from dbdc_jax.models.modulation import ModulationBank
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet
from dbdc_jax.reporting.runs import Data, FinishedNetwork, FinishedRun

SLICES = 4
PER_CLASS = 40
METHOD = (
  f'Pixels of {SLICES} test slices of each modality with much foreground:'
  f' up to {PER_CLASS} of each class and modality, drawn with seed 0.'
)


class Points(NamedTuple):
  """Points of one kind.

  Attributes:
    values: `[N, D]`.
    classes: `[N]` class indices.
    modalities: N names.
  """

  values: np.ndarray
  classes: np.ndarray
  modalities: list[str]


def _watch(network: FinishedNetwork, stride: int):
  """A function to features and, where there is a projector, embeddings."""
  projector = Projector(dim=network.config.model.embedding_dim)

  @jax.jit
  def forward(params, memory, images, modality):
    seen: dict[str, Any] = {}

    def keep(next_function, args, kwargs, context):
      out = next_function(*args, **kwargs)
      name = context.method_name
      if isinstance(context.module, ModulationBank) and name == '__call__':
        seen['features'] = out  # The last call stays.
      if isinstance(context.module, UNet) and name == 'decode':
        # Networks of one modality each: none has seen all images.
        seen['apart'] = 'taps' in seen
        seen['taps'] = out
      return out

    with nn.intercept_methods(keep):
      network.method.predict(params, memory, images, modality)
    found: dict[str, Any] = {}
    if seen.get('apart'):
      return found
    if 'features' in seen:
      features = seen['features'].astype(jnp.float32)
      found['features'] = features[:, ::stride, ::stride]
    weights = params.get('projector') if isinstance(params, dict) else None
    if weights is not None and 'taps' in seen:
      found['embeddings'] = projector.apply(
        {'params': weights}, seen['taps'], stride
      )
    return found

  return forward


def _slices(
  prepared: Prepared, cases: Sequence[PreparedCase], labelable: np.ndarray
):
  """`SLICES` images `[n, H, W, 1]` in [0, 1] and labels of one modality.

  Sides are cut to multiples of 8, which the network wants. Labels are `UNKNOWN`
  where they do not say which class a pixel is.
  """
  images, labels = [], []
  each = -(-SLICES // len(cases))
  for case in cases:
    reference = prepared.labels(case)
    shown = np.where(reference == UNKNOWN, 0, reference)
    if not case.drawn_for(labelable)[0]:
      reference = np.where(reference == 0, UNKNOWN, reference)
    for index in pictures.choose_slices(shown, each):
      images.append(prepared.image(case, index))
      labels.append(reference[index])
  # The same number for each modality: one compiled function.
  places = np.arange(SLICES) % len(images)
  side = images[0].shape[0] // 8 * 8
  image = to_float(np.stack(images)[places, :side, :side, None])
  return image, np.stack(labels)[places, :side, :side]


def _classes(labels: np.ndarray) -> np.ndarray:
  """The classes that some pixel is."""
  found = np.unique(labels)
  return found[found != UNKNOWN]


def _draw(labels: np.ndarray, rng) -> np.ndarray:
  """Indices of up to `PER_CLASS` pixels of each class."""
  chosen = [np.zeros(0, int)]
  for index in _classes(labels):
    places = np.flatnonzero(labels == index)
    count = min(PER_CLASS, len(places))
    chosen.append(rng.choice(places, count, replace=False))
  return np.concatenate(chosen)


def _prototypes(network: FinishedNetwork, memory, present) -> Points | None:
  """The bank, without the rows of classes that a modality does not have."""
  bank = memory.get('prototypes') if isinstance(memory, dict) else None
  if bank is None:
    return None
  values = np.asarray(bank.bank)
  kept = present & (np.abs(values).sum(-1) > 0)
  which, classes = np.nonzero(kept)
  names = [network.modalities[k] for k in which]
  return Points(values[kept], classes, names)


def collect(run: FinishedRun, data: Data) -> dict[str, Points]:
  """Points of the best checkpoint(s), by kind.

  Args:
    run: the run.
    data: its scans.

  Returns:
    'features' after the last modulation layer and, of a method with a
    prototype bank, 'prototypes' and 'embeddings'. Networks of one modality
    each have no features in common: they are left out.
  """
  network, *others = run.networks
  if others or network.method.traits.vote:
    return {}
  params, memory = network.state(network.facts['best_step'])
  stride = 2 if run.config.data.slice_size >= 128 else 1
  forward, rng = _watch(network, stride), np.random.default_rng(0)
  parts: dict[str, list[np.ndarray]] = {}
  classes, names = [], []
  present = np.zeros((len(network.modalities), len(run.classes)), bool)
  for index, cases in enumerate(data.cases(network, 'test')):
    mask = network.problem.labelable[index]
    images, labels = _slices(data.prepared, cases, mask)
    ids = np.full(len(images), index, np.int32)
    labels = labels[:, ::stride, ::stride].ravel()
    chosen = _draw(labels, rng)
    present[index, _classes(labels)] = True
    for kind, value in forward(params, memory, images, ids).items():
      flat = np.asarray(value).reshape(len(labels), -1)
      parts.setdefault(kind, []).append(flat[chosen])
    classes.append(labels[chosen])
    names += [network.modalities[index]] * len(chosen)
  out = {
    kind: Points(np.concatenate(p), np.concatenate(classes), names)
    for kind, p in parts.items()
  }
  prototypes = _prototypes(network, memory, present)
  return out | ({'prototypes': prototypes} if prototypes else {})
