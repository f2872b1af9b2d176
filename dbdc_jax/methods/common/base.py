"""What a method is: four pure functions, its traits and its recipe.

`params` is what the optimizer touches; `memory` is everything else that
changes (modulation statistics, prototypes, teachers). The train loop knows
nothing more of a method than this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import ml_collections
import numpy as np
import optax

from dbdc_jax.methods.common.transfer import Transfer
from dbdc_jax.ops import optimizer

# The terms of MPCL, in the order of eq 8 to 11.
TERMS = ('pseg', 'mc', 'pc', 'pd')
# Of the authors' later code: weights of the terms in labelled and in unlabelled
# slices. L_pseg is 0.5 (CE + Dice) here, the sum there.
_CODE = np.array([[2.0, 0.2, 0.2, 0.2], [2.0, 0.4, 0.4, 0.4]], np.float32)
# Of the paper: delta / 4 each (eq 12, 18, 19 and 21).
_PRINTED = np.full((2, 4), 0.1 / 4, np.float32)


class Reading(NamedTuple):
  """How DBDC is read: numbers, so that all readings share one program.

  Without arguments: the paper's, of the fields' defaults.

  Attributes:
    mpcl: weights of MPCL's terms (`TERMS`) in labelled and unlabelled slices.
    across: what the other modalities' prototypes count in L_mc: 1 pushes an
      embedding away from them, -1 draws it to them.
    bank: whether the prototype bank and MPCL act.
    momentum: alpha of eq 7.
    confidence: unlabelled pixels whose pseudo-label is less probable are left
      out.
    weighs_unlabeled: whether MAW's weights act on the unlabelled losses, too.
  """

  mpcl: Float[Array | np.ndarray, '2 4'] = _PRINTED
  across: Float[Array, ''] | float = 1.0
  bank: Bool[Array, ''] | bool = True
  momentum: Float[Array, ''] | float = 0.99
  confidence: Float[Array, ''] | float = 0.0
  weighs_unlabeled: Bool[Array, ''] | bool = True


def reading(config: ml_collections.ConfigDict, epoch: int) -> Reading:
  """What a config says of DBDC in an epoch (from 1 on), as arrays."""
  mpcl, dc = config.mpcl, config.dc
  printed = np.full_like(_PRINTED, mpcl.delta / 4)
  weights = _CODE if mpcl.reading == 'code' else printed
  return Reading(
    mpcl=jnp.asarray(weights * [mpcl[term] for term in TERMS], jnp.float32),
    across=jnp.float32(-1.0 if mpcl.across == 'align' else 1.0),
    bank=jnp.asarray(mpcl.start == 'first' or epoch > dc.warmup_epochs),
    momentum=jnp.float32(mpcl.momentum),
    confidence=jnp.float32(dc.confidence),
    weighs_unlabeled=jnp.asarray(config.weighting.reading != 'code'),
  )


class Signals(NamedTuple):
  """What the train loop passes into a step, as arrays (never constants).

  Attributes:
    weights: modality weights omega (eq 22), all ones without MAW.
    ramp: lambda(t) of the unlabelled losses.
    active: False in the supervised warm-up epochs.
    present: classes that each modality's labels contain.
    consistent: modalities that have unlabelled scans.
    progress: in (0, 1], this epoch's number over that of all epochs.
    reading: of DBDC.
    prototyped: classes that some labelled pixel of the modality is known to be;
      None: all that are present. (Where no scan was drawn for all classes, no
      pixel is known to be background.)
  """

  weights: Float[Array, ' K']
  ramp: Float[Array, '']
  active: Bool[Array, '']
  present: Bool[Array, 'K C']
  consistent: Bool[Array, ' K']
  progress: Float[Array, ''] | float = 1.0
  reading: Reading = Reading()
  prototyped: Bool[Array, 'K C'] | None = None


def full_signals(
  present: Bool[Array | np.ndarray, 'K C'],
  consistent: Bool[Array | np.ndarray, ' K'],
) -> Signals:
  """The signals of a step in which every loss acts with its whole weight."""
  return Signals(
    weights=jnp.ones(len(present)),
    ramp=jnp.float32(1.0),
    active=jnp.asarray(True),
    present=jnp.asarray(present),
    consistent=jnp.asarray(consistent),
    progress=jnp.float32(1.0),
    reading=jax.tree.map(jnp.asarray, Reading()),
  )


class Traits(NamedTuple):
  """What a method is like, before any of its functions is asked for.

  Attributes:
    joint: True if one network takes all modalities; False trains one network
      per modality.
    unlabeled: whether `loss` reads `batch['unlabeled']`.
    weighted: whether MAW's weights act on its modalities.
    multiple: slices per modality and device must be a multiple of this.
    transfer: the direction of a method that has one; the loop tests its target
      and sees to it that no label of the target is read in training.
    volumes: slices that each scan is resampled to, of a method whose batches
      hold whole scans, `[K, b, D, H, W]`; 0: they hold slices.
    vote: whether it segments by labelled training scans, see `Method.predict`.
  """

  joint: bool = True
  unlabeled: bool = True
  weighted: bool = False
  multiple: int = 1
  transfer: Transfer | None = None
  volumes: int = 0
  vote: bool = False


class Recipe(NamedTuple):
  """What a method is trained with.

  Attributes:
    tx: the optimizer, without its learning rate: the step multiplies by minus
      that number. Parts of `params` may differ by `optax.multi_transform`,
      their rates by a factor in it. It may take the extra argument `left`, the
      share of the run that is still to be done.
    learning_rate: the first one.
    batch_size: samples of each modality in the global batch.
    batch_field: of the config, that `batch_size` comes from.
  """

  tx: optax.GradientTransformation
  learning_rate: float
  batch_size: int
  batch_field: str = 'batch_size'


class Method(NamedTuple):
  """A learning method: four functions, and what has to be known of them.

  Attributes:
    init: `(key) -> (params, memory)`.
    loss: `(params, memory, batch, key, signals) -> (loss, (memory, metrics))`.
      `batch` is what `input_pipeline` gives, on one device. `metrics` maps
      names to scalars, `[K]` or `[K, C]` arrays, equal on all devices;
      `metrics['dice_counts']` `[2, K, C]` feeds MAW.
    predict: `(params, memory, images, modality) -> logits`: `[n, H, W, 1]`
      and `[n]` int32 to `[n, H, W, C]`, evaluation statistics. With
      `traits.vote` it is `(params, memory, atlas, labels, volume, modality) ->
      (votes, weight)`: `[D, H, W]` uint16 atlas, its uint8 labels, a uint16
      volume and an int32 scalar to `[D, H, W, C]` bool and `[D, H, W]`, the
      logarithm of how much they weigh.
    update: `(params, memory) -> memory`, after the optimizer's step.
    counted: `(params, memory, image) -> parameters`: passes an image (`[1, H,
      W, 1]`, of `traits.volumes` `[1, D, H, W, 1]`) once through every network
      that training has, averages of networks included, and returns the
      parameters of these: what the paper's Params and FLOPs columns count.
    traits: what it is like.
    recipe: what it is trained with.
    second: `predict` of the other one of two networks that teach each other:
      validated beside it for the record, never chosen or tested by.
  """

  init: Callable[..., tuple[Any, Any]]
  loss: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
  predict: Callable[..., Any]
  update: Callable[..., Any]
  counted: Callable[..., Any]
  traits: Traits
  recipe: Recipe
  second: Callable[..., Any] | None = None


def recipe(
  config: ml_collections.ConfigDict,
  own_tx: optax.GradientTransformation,
  own_rate: float,
) -> Recipe:
  """DBDC's, or with `recipe=own` the method's optimizer and learning rate."""
  rate = config.optimizer.learning_rate
  if config.recipe == 'own':
    return Recipe(own_tx, own_rate, config.batch_size)
  return Recipe(optimizer.build(), rate, config.batch_size)


def is_joint(config: ml_collections.ConfigDict, default: bool) -> bool:
  """Whether one network takes all modalities.

  Args:
    config: the run's config; `joint` may decide.
    default: the method's own way.
  """
  return {'auto': default, 'true': True, 'false': False}[config.joint]


def check_pair(config: ml_collections.ConfigDict, count: int, why: str) -> None:
  """Checks that a method of two modalities has them in one run.

  Args:
    config: the run's config.
    count: of its modalities.
    why: it takes two, for the error.

  Raises:
    ValueError: another number, or a network for each is asked for.
  """
  if count != 2 or not is_joint(config, True):
    found = f'{count} modalities' if count != 2 else 'joint=false'
    raise ValueError(
      f'{config.method}: {why}, and this is {found}; choose'
      ' --config.modalities=FIRST,SECOND and joint=auto'
    )


def keep_memory(params: Any, memory: Any) -> Any:
  """The `update` of a method without a teacher."""
  del params
  return memory
