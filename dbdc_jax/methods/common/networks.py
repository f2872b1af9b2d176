"""A method's networks, and the step that they are trained in.

Every method's loss is `(step, params, memory) -> (loss, (memory, metrics))`;
`method` binds it and the other functions to the networks.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dbdc_jax.methods.common import base, problem
from dbdc_jax.models.unet import UNet
from dbdc_jax.ops import augment
from dbdc_jax.runtime.precision import compute_dtype


class Networks(NamedTuple):
  """The network and settings that a step needs.

  Attributes:
    unet: the module in its training form; some methods have another than the
      U-Net here.
    predictor: the same for any mixture of modalities.
    settings: of the augmentation.
    config: the run's config.
    labelable: `[K, C]` bool, see `Task.labelable`.
    own_start: share of the run before which the unlabelled losses are off, if
      the method's own recipe is followed; None: DBDC's is.
  """

  unet: Any
  predictor: Any
  settings: augment.Augmentation
  config: ml_collections.ConfigDict
  labelable: np.ndarray
  own_start: float | None

  @property
  def own(self) -> bool:
    """Whether the method's own recipe is followed."""
    return self.own_start is not None

  @property
  def blank(self) -> jax.Array:
    """A training patch of zeros."""
    patch = self.settings.patch_size
    return jnp.zeros((1, patch, patch, 1))


class Step(NamedTuple):
  """What a method's loss is given, beside parameters and memory.

  Attributes:
    net: the method's networks.
    batch: what `input_pipeline` gives, on one device.
    key: of the step's draws.
    signals: what the loop passes in.
  """

  net: Any
  batch: dict[str, Any]
  key: jax.Array
  signals: base.Signals

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's config."""
    return self.net.config


def method(
  net: Any,
  *,
  loss: Callable[..., Any],
  traits: base.Traits,
  recipe: base.Recipe,
  update: Callable[..., Any] = base.keep_memory,
  **functions: Callable[..., Any],
) -> base.Method:
  """Makes a method of functions that take its networks first.

  Args:
    net: the networks.
    loss: `(step, params, memory)`; see `base.Method`, as for all that follows.
    traits: the method's.
    recipe: the method's.
    update: without `net`.
    **functions: `init`, `predict`, `second` and `counted`, with `net` before
      the rest.
  """
  bound = {name: functools.partial(f, net) for name, f in functions.items()}
  return base.Method(
    loss=functools.partial(_loss, net, loss),
    update=update,
    traits=traits,
    recipe=recipe,
    **bound,
  )


def _loss(net, loss, params, memory, batch, key, signals):
  """`base.Method.loss` by a loss that takes a `Step`."""
  return loss(Step(net, batch, key, signals), params, memory)


def of_unet(
  config: ml_collections.ConfigDict, own_start: float | None = None, **more: Any
) -> Networks:
  """The U-Net of a config, and its settings.

  Args:
    config: the run's config.
    own_start: see `Networks`; of a method that has a recipe of its own.
    **more: fields of the `UNet`.
  """
  labelable = problem.resolve(config).labelable
  unet = UNet(
    num_classes=labelable.shape[1],
    num_modalities=labelable.shape[0],
    width=config.model.width,
    grouped=True,
    dtype=compute_dtype(config.dtype),
    modulation=config.model.modulation,
    **more,
  )
  # Prediction takes any mixture of modalities: no grouped layout.
  predictor = unet.clone(grouped=False)
  return of_config(config, labelable, unet, predictor, own_start)


def of_config(
  config: ml_collections.ConfigDict,
  labelable: np.ndarray,
  unet: nn.Module,
  predictor: nn.Module,
  own_start: float | None,
) -> Networks:
  """Any network with its settings; see `Networks`."""
  settings = augment.Augmentation(**config.augment)
  if config.recipe != 'own':
    own_start = None
  if own_start is not None:
    settings = settings._replace(scale=0.0, intensity_labeled=0.0)
  return Networks(unet, predictor, settings, config, labelable, own_start)
