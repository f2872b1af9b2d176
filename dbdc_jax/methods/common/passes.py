"""Views of a step's slices, and passes of plain networks over them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Key, Shaped

from dbdc_jax.methods.common import supervision
from dbdc_jax.methods.common.networks import Step
from dbdc_jax.ops import augment, losses, partial_labels
from dbdc_jax.ops.shapes import Images, Labels, Logits

# The networks of a method that has two.
PAIR = ('net1', 'net2')


class Views(NamedTuple):
  """A step's slices as the networks see them.

  Attributes:
    images: labelled.
    labels: class indices.
    weak: unlabelled, moved and cropped only.
    strong: the same crops with other intensities and noise.
    keys: one for each unlabelled sample's further draws.
    possible: classes that each pixel of the unlabelled slices may be; None:
      nobody drew on them.
  """

  images: Images
  labels: Labels
  weak: Images
  strong: Images
  keys: Key[Array, 'K b']
  possible: Bool[Array, 'K b H W C'] | None = None


def acting(step: Step) -> Bool[Array, ' K']:
  """Where the unlabelled losses act."""
  signals = step.signals
  if step.net.own:
    return signals.consistent & (signals.progress > step.net.own_start)
  return signals.consistent & signals.active


def flat(x: Shaped[Array, 'K b *rest']) -> Shaped[Array, ' K*b *rest']:
  """The modalities one behind the other."""
  return x.reshape(-1, *x.shape[2:])


def _grouped(
  x: Shaped[Array, ' n *rest'], like: Integer[Array, 'K b']
) -> Shaped[Array, 'K b *rest']:
  """By modality again."""
  return x.reshape(*like.shape, *x.shape[1:])


def check_pairs(what: str, keys: Key[Array, 'K b']) -> None:
  """Checks that a device's slices can be mixed with their neighbours.

  Args:
    what: mixes them, for the error.
    keys: the samples'.

  Raises:
    ValueError: b is odd.
  """
  if keys.shape[1] % 2:
    raise ValueError(
      f'batch_size: {what} mixes pairs of slices, and {keys.shape[1]} of a'
      ' modality on a device cannot be paired: choose a --config.batch_size'
      ' that is a multiple of twice the number of devices'
    )


def labeled_view(step: Step, key: Key[Array, '']) -> tuple[Images, Labels]:
  """Labelled slices as they are trained on: see `Views`."""
  labeled = step.batch['labeled']
  images, labels = augment.labeled_view(
    flat(labeled['image']),
    flat(labeled['label']),
    augment.sample_keys(key, flat(labeled['index'])),
    step.net.settings,
  )
  index = labeled['index']
  return _grouped(images, index), _grouped(labels, index)


def views(step: Step) -> Views:
  """The views of a step: the same crops for the same seed in all methods.

  Without any unlabelled slice the labelled ones stand in, as they do for a
  modality that has none: `signals.consistent` keeps them out of every loss.
  """
  k_labeled, k_unlabeled = jax.random.split(step.key)
  k_view, k_more = jax.random.split(k_unlabeled)
  images, labels = labeled_view(step, k_labeled)
  given = step.batch.get('unlabeled', step.batch['labeled'])
  index, drawn = flat(given['index']), given.get('drawn')
  weak, strong, known = augment.unlabeled_views(
    flat(given['image']),
    augment.sample_keys(k_view, index),
    step.net.settings,
    None if drawn is None else flat(given['label']),
  )
  grouped = lambda x: _grouped(x, given['index'])
  keys = grouped(augment.sample_keys(k_more, index))
  possible = None
  if known is not None:
    known = grouped(known).astype(labels.dtype)
    possible = partial_labels.possible(known, drawn)
  return Views(images, labels, grouped(weak), grouped(strong), keys, possible)


def forward(
  step: Step, params: Any, statistics: Any, images: Images
) -> tuple[Logits, Any]:
  """One pass in train mode; every logit of these methods comes from here.

  Args:
    step: what the method was given.
    params: of one network.
    statistics: its running ones.
    images: of each modality.

  Returns:
    Float32 logits, and the new statistics.
  """
  count = images.shape[1]
  modality = jnp.repeat(
    jnp.arange(step.net.unet.num_modalities, dtype=jnp.int32), count
  )
  variables = {'params': params, 'modulation': statistics}
  logits, new = step.net.unet.apply(
    variables, flat(images), modality, True, mutable=['modulation']
  )
  logits = losses.only_labelable(logits, step.net.labelable, modality)
  return logits.reshape(-1, count, *logits.shape[1:]), new['modulation']


def both_forward(
  step: Step,
  params: Any,
  statistics: Any,
  images: Images,
  unlabeled: Float[Array, 'K n H W 1'],
) -> tuple[Logits, Float[Array, 'K n H W C'], Any]:
  """Labelled and unlabelled slices in one pass, as in the published code.

  Args:
    step: what the method was given.
    params: of one network.
    statistics: its running ones.
    images: labelled.
    unlabeled: as many or fewer.

  Returns:
    Logits of the first, those of the second (whose gradient is selected away
    while unlabelled losses must not act), and the new statistics.
  """
  everything = jnp.concatenate([images, unlabeled], 1)
  logits, statistics = forward(step, params, statistics, everything)
  count = images.shape[1]
  on = acting(step)[:, None, None, None, None]
  return logits[:, :count], supervision.gate(logits[:, count:], on), statistics


def by_name(found: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
  """Each part of what both networks of a pair give, by the network's name."""
  return [
    dict(zip(PAIR, part, strict=True)) for part in zip(*found, strict=True)
  ]


def pair_forward(
  step: Step, params: Any, memory: Any, views: Views
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """`both_forward` of each network of a pair, by name.

  Returns:
    Labelled logits, unlabelled logits and new statistics.
  """
  found = [
    both_forward(
      step, params[name], memory['modulation'][name], views.images, views.weak
    )
    for name in PAIR
  ]
  logits, unlabeled, statistics = by_name(found)
  return logits, unlabeled, statistics


def probabilities(
  step: Step,
  params: Any,
  statistics: Any,
  images: Images,
  possible: supervision.Possible,
) -> Logits:
  """A teacher's softmax over what is possible, without a gradient.

  Its pass is normalised by its own images; the statistics are only handed on
  because the network has a place for them.
  """
  logits, _ = forward(step, lax.stop_gradient(params), statistics, images)
  if possible is not None:
    logits = jnp.where(possible, logits, losses.NEGATIVE)
  return lax.stop_gradient(jax.nn.softmax(logits))
