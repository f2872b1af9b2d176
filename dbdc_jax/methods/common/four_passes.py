"""The four passes of a DBDC step over three views of its slices.

All passes with a gradient are one batch, P of them one behind the other: a
convolution then has P times the images to fill a device with. Each pass is
normalised by its own statistics (`ModulationBank.passes`); what it found moves
the running statistics afterwards, in order.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from dbdc_jax.methods.common import passes, supervision
from dbdc_jax.methods.common.networks import Networks, Step
from dbdc_jax.models import modulation
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import drop_bottleneck
from dbdc_jax.ops import augment, losses, partial_labels
from dbdc_jax.ops.shapes import Ids, Images, Labels, Logits, Slices

# The view that each pass with a gradient sees.
_VIEWS = {'sup': 'images', 'fpc': 'weak', 'ipc': 'strong'}


class Seen(NamedTuple):
  """What P passes say, grouped by modality.

  Attributes:
    logits: of each pixel.
    embeddings: n = b * H/stride * W/stride; None without MPCL.
  """

  logits: Float[Array, 'P K b H W C']
  embeddings: Float[Array, 'P K n D'] | None


class Passes(NamedTuple):
  """What the passes of a step left behind.

  Attributes:
    names: of the passes with a gradient; 'sup' is the first.
    seen: of them.
    targets: what each of them should say: labels or pseudo-labels.
    sure: pixels of each whose target counts.
    moments: of the passes that move running statistics, in order.
  """

  names: tuple[str, ...]
  seen: Seen
  targets: list[Labels]
  sure: list[Bool[Array, 'K b H W']]
  moments: list[Any]


def variables(params: Any, memory: Any) -> dict[str, Any]:
  """What the U-Net is applied with."""
  return {'params': params['unet'], 'modulation': memory['modulation']}


def tested(params: Any, memory: Any) -> dict[str, Any]:
  """The teacher's parameters instead, where there is one.

  The running statistics are the student's: an average over as many steps.
  """
  unet = memory.get('teacher', params['unet'])
  return {'params': unet, 'modulation': memory['modulation']}


def predict(
  net: Networks, params: Any, memory: Any, images: Slices, modality: Ids
) -> Float[Array, 'N H W C']:
  """Logits in evaluation mode, of the teacher where there is one."""
  variables = tested(params, memory)
  logits = net.predictor.apply(variables, images, modality, False)
  return losses.only_labelable(logits, net.labelable, modality)


def projector(net: Networks) -> Projector:
  """The projector of a network's embeddings."""
  return Projector(dim=net.config.model.embedding_dim, dtype=net.unet.dtype)


class Learner(NamedTuple):
  """The networks with parameters and memory, in train mode."""

  net: Networks
  params: Any
  memory: Any

  def apply(self, part: str, inputs: Any, count: int) -> tuple[Any, Any]:
    """Runs a part of the U-Net on a batch of so many passes.

    Returns:
      What the part returns, and the `Moments` of each of its normalisations.
    """
    images = jax.tree.leaves(inputs)[0].shape[0]
    modalities = self.net.unet.num_modalities
    ids = jnp.arange(modalities, dtype=jnp.int32)
    each = images // (count * modalities)
    out, found = self.net.unet.clone(passes=count).apply(
      variables(self.params, self.memory),
      inputs,
      jnp.tile(jnp.repeat(ids, each), count),
      True,
      method=part,
      mutable=['moments'],
    )
    # A part without normalisations, as one that stands in for it, has none.
    return out, found.get('moments', {})

  def decode(
    self, features: Any, count: int, project: bool
  ) -> tuple[Seen, Any]:
    """Decoder, head and (if asked and on) projector, and their moments."""
    taps, found = self.apply('decode', features, count)
    logits, more = self.apply('head', taps[-1], count)
    modalities, mpcl = self.net.unet.num_modalities, self.net.config.mpcl
    logits = losses.only_labelable(
      logits.reshape(count * modalities, -1, *logits.shape[1:]),
      self.net.labelable,
      jnp.tile(jnp.arange(modalities), count),
    )
    logits = logits.reshape(count, -1, *logits.shape[1:])
    embeddings: Any = None
    if project and mpcl.enabled:
      weights = {'params': self.params['projector']}
      embeddings = projector(self.net).apply(weights, taps, mpcl.stride)
      embeddings = embeddings.reshape(
        count, modalities, -1, embeddings.shape[-1]
      )
    return Seen(logits, embeddings), found | more


def _moments(found: Any, count: int, index: int) -> Any:
  """The moments of one of the passes, of each normalisation."""
  return jax.tree.map(
    lambda x: x.reshape(count, -1, *x.shape[1:])[index], found
  )


def follow(statistics: Any, found: Any) -> Any:
  """Moves every normalisation's running statistics, see `modulation.follow`.

  Args:
    statistics: collection `modulation` of the U-Net.
    found: the `Moments` of the same normalisations; those without stay.
  """
  if 'count' in statistics:
    return modulation.follow(statistics, found['found'])
  moved = {k: follow(statistics[k], v) for k, v in found.items()}
  return {**statistics, **moved}


def _names(step: Step) -> tuple[str, ...]:
  """The passes with a gradient."""
  dc, there = step.config.dc, 'unlabeled' in step.batch
  on = ['sup'] + ['fpc'] * (there and dc.fpc) + ['ipc'] * (there and dc.ipc)
  return tuple(on)


def _mixed(
  x: Shaped[Array, 'K b H W *rest'], boxes: Bool[Array, 'K b H W']
) -> Shaped[Array, 'K b H W *rest']:
  """Images or labels with boxes of their neighbours (2 i, 2 i + 1): CutMix."""
  pairs = x.reshape(x.shape[0], -1, 2, *x.shape[2:])
  others = pairs[:, :, ::-1].reshape(x.shape)
  return jnp.where(boxes.reshape(*boxes.shape, *(1,) * (x.ndim - 4)), others, x)


def _boxes(step: Step, keys: Key[Array, 'K b']) -> Bool[Array, 'K b H W']:
  """Where each strong view shows its neighbour, in a share of the samples.

  Raises:
    ValueError: samples that cannot be paired.
  """
  passes.check_pairs('dc.cutmix', keys)
  side = step.net.settings.patch_size

  def one(key):
    k_which, k_box = jax.random.split(jax.random.fold_in(key, 1))
    which = jax.random.bernoulli(k_which, step.config.dc.cutmix)
    return which & augment.half_box(k_box, side)

  return jax.vmap(jax.vmap(one))(keys)


def _taught(step: Step, params: Any, memory: Any, images: Images) -> Logits:
  """The teacher's logits."""
  modalities, count = images.shape[:2]
  ids = jnp.repeat(jnp.arange(modalities, dtype=jnp.int32), count)
  # The slices are sorted by modality.
  grouped = step.net._replace(predictor=step.net.unet)
  logits = predict(grouped, params, memory, passes.flat(images), ids)
  return logits.reshape(modalities, count, *logits.shape[1:])


def run(step: Step, params: Any, memory: Any) -> Passes:
  """Runs all passes; the unlabelled ones have no gradient while off."""
  views, names = passes.views(step), _names(step)
  # What the strong view shows, of images and of what they should say.
  mixed = lambda x: x
  if step.config.dc.cutmix and 'ipc' in names:
    mixed = functools.partial(_mixed, boxes=_boxes(step, views.keys))
    views = views._replace(strong=mixed(views.strong))
  learner, count = Learner(step.net, params, memory), len(names)
  inputs = [passes.flat(getattr(views, _VIEWS[name])) for name in names]
  features, encoded = learner.apply('encode', jnp.concatenate(inputs), count)
  targets, between = [views.labels], []
  drawn = supervision.drawn(step)
  sure = [
    jnp.ones(views.labels.shape, bool)
    if drawn is None
    else partial_labels.known(views.labels, drawn)
  ]
  if count > 1:
    # The pseudo-label: hard, without gradient, in train mode like all passes.
    fixed = learner._replace(params=lax.stop_gradient(params))
    if 'fpc' in names:
      at = names.index('fpc')
      weak = jax.tree.map(lambda x: jnp.split(x, count)[at], features)
      found = _moments(encoded, count, at)
      *skips, m = features
      # Only the weak view's bottleneck is dropped.
      parts, keys = list(jnp.split(m, count)), passes.flat(views.keys)
      parts[at] = drop_bottleneck((parts[at],), keys, step.config.dc.dropout)[0]
      features = (*skips, jnp.concatenate(parts))
    else:
      weak, found = fixed.apply('encode', passes.flat(views.weak), 1)
    if step.config.dc.pseudo == 'teacher':
      logits = _taught(step, params, memory, views.weak)
    else:
      alone, decoded = fixed.decode(lax.stop_gradient(weak), 1, project=False)
      between, logits = [found | decoded], alone.logits[0]
    known = step.signals.present, views.possible
    pseudo = supervision.pseudo_labels(logits, *known)
    pseudo = pseudo.astype(views.labels.dtype)
    probable = supervision.probabilities(logits, *known)
    certain = probable >= step.signals.reading.confidence
    for name in names[1:]:
      shown = mixed if name == 'ipc' else lambda x: x
      targets.append(shown(pseudo))
      sure.append(shown(certain))
  seen, decoded = learner.decode(features, count, project=True)
  of = lambda name: _moments(encoded | decoded, count, names.index(name))
  strong = [of('ipc')] if 'ipc' in names else []
  moments = [of('sup'), *between, *strong]
  return Passes(names, seen, targets, sure, moments)
