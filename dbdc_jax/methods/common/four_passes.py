"""The four passes of a DBDC step over three views of its slices.

All passes with a gradient are one batch, P of them one behind the other: a
convolution then has P times the images to fill a device with. Each pass is
normalised by its own statistics (`ModulationBank.passes`); what it found moves
the running statistics afterwards, in order.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from dbdc_jax.methods.common import passes, supervision
from dbdc_jax.methods.common.networks import Networks, Step
from dbdc_jax.models import modulation
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import drop_bottleneck
from dbdc_jax.ops import losses

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
    labels: of the labelled slices.
    pseudo: pseudo-labels, None without unlabelled slices.
    moments: of the passes that move running statistics, in order.
  """

  names: tuple[str, ...]
  seen: Seen
  labels: Integer[Array, 'K b H W']
  pseudo: Integer[Array, 'K b H W'] | None
  moments: list[Any]

  @property
  def targets(self) -> list[Integer[Array, 'K b H W']]:
    """What each pass should say: labels or pseudo-labels."""
    if self.pseudo is None:
      return [self.labels]
    pseudo = self.pseudo.astype(self.labels.dtype)
    return [self.labels, *[pseudo for _ in self.names[1:]]]


def variables(params: Any, memory: Any) -> dict[str, Any]:
  """What the U-Net is applied with."""
  return {'params': params['unet'], 'modulation': memory['modulation']}


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


def run(step: Step, params: Any, memory: Any) -> Passes:
  """Runs all passes; the unlabelled ones have no gradient while off."""
  views, names = passes.views(step), _names(step)
  learner, count = Learner(step.net, params, memory), len(names)
  inputs = [passes.flat(getattr(views, _VIEWS[name])) for name in names]
  features, encoded = learner.apply('encode', jnp.concatenate(inputs), count)
  pseudo, between = None, []
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
    alone, decoded = fixed.decode(lax.stop_gradient(weak), 1, project=False)
    between = [found | decoded]
    pseudo = supervision.pseudo_labels(alone.logits[0], step.signals.present)
  seen, decoded = learner.decode(features, count, project=True)
  of = lambda name: _moments(encoded | decoded, count, names.index(name))
  strong = [of('ipc')] if 'ipc' in names else []
  moments = [of('sup'), *between, *strong]
  return Passes(names, seen, views.labels, pseudo, moments)
