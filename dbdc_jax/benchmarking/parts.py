"""A step's parts, each measured by leaving it out.

The time of a part is that of the whole step less that of a step compiled
without it. What stands in for a part passes data and gradients on, so that the
compiler removes nothing else along with it; what the stand-in itself costs (a
pass or two over memory, no convolution) is missing from the part's time.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import types
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dbdc_jax.benchmarking.workload import MeasuredStep, Workload, make
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet, max_pool
from dbdc_jax.ops import losses, prototypes


class Part(NamedTuple):
  """A part that can be left out.

  Attributes:
    meaning: what is left out and what stands in for it.
    without: makes a workload's step without the part, to be lowered.
    only: the method that has the part, or None for all.
  """

  meaning: str
  without: Callable[[Workload], MeasuredStep]
  only: str | None = None


def _grow(x: jax.Array) -> jax.Array:
  """Every pixel twice along both axes."""
  return x.repeat(2, 1).repeat(2, 2)


def _fold(x: jax.Array, channels: int) -> jax.Array:
  """Sums groups of channels to a smaller number of them."""
  return x.reshape(*x.shape[:-1], -1, channels).sum(-2)


def _encode(net: UNet, x: jax.Array, modality: Any, train: bool):
  """Pooled images times a parameter: the gradient has somewhere to go."""
  del modality, train
  bias = net.variables['params']['logits']['bias'].mean()
  features = []
  for channels in (2, 4, 8, 8):
    scaled = (x * (1 + bias)).astype(net.dtype)
    channels *= net.width
    features.append(jnp.broadcast_to(scaled, (*x.shape[:3], channels)))
    x = max_pool(x)
  return tuple(features)


def _decode(net: UNet, features: Any, modality: Any, train: bool):
  """The encoder's features, each with the repeated pixels from below."""
  del net, modality, train
  x1, x2, x3, m = features
  x4 = x3 + _grow(m)
  x5 = x2 + _grow(_fold(x4, x2.shape[-1]))
  x6 = x1 + _grow(_fold(x5, x1.shape[-1]))
  return x4, x5, x6


def _project(projector: Projector, taps: Any, stride: int = 1):
  """The decoder's last features, repeated or cut to D channels."""
  x = taps[-1][:, ::stride, ::stride].astype(jnp.float32)
  # The lower ones take part so that their gradient stays.
  lower = sum(jnp.mean(tap.astype(jnp.float32)) for tap in taps[:-1])
  repeats = -(-projector.dim // x.shape[-1])
  x = jnp.tile(x, repeats)[..., : projector.dim] + lower
  return prototypes.normalize(x)


def _square(values: jax.Array) -> jax.Array:
  """Mean square per modality."""
  wide = values.astype(jnp.float32)
  return jnp.mean(wide * wide, tuple(range(1, wide.ndim)))


def _cross_entropy(logits, labels):
  del labels
  return _square(logits)


def _dice(logits, labels, present, **_):
  del labels, present
  return jnp.zeros(logits.shape[0])


def _mpcl_terms(state, embeddings, labels, present, scale, bias, **_):
  del state, labels, present
  value = _square(embeddings[..., ::2]) + 0 * (scale.sum() + bias.sum())
  return dict.fromkeys(('pseg', 'mc', 'pc', 'pd'), value)


def _stand_in(module: type, method: str, stand_in: Any):
  """Modules' methods are replaced while something is traced."""

  def intercept(call, args, kwargs, context):
    here = type(context.module), context.method_name
    if here != (module, method) or context.module.is_initializing():
      return call(*args, **kwargs)
    return stand_in(context.module, *args, **kwargs)

  return _in(lambda: nn.intercept_methods(intercept))


@contextlib.contextmanager
def _no_losses() -> Iterator[None]:
  """The losses' functions are replaced while something is traced."""
  with (
    mock.patch.multiple(losses, cross_entropy=_cross_entropy, dice=_dice),
    mock.patch.object(prototypes, 'mpcl_terms', _mpcl_terms),
  ):
    yield


def _in(context: Callable[[], Any]) -> Callable[[Workload], MeasuredStep]:
  """A step whose function is called, and so traced, inside of a context."""

  def without(workload):
    step = make(workload)

    def lower(*arguments):
      with context():
        return step.function.lower(*arguments)

    return step._replace(function=types.SimpleNamespace(lower=lower))

  return without


PARTS: dict[str, Part] = {
  'encoder': Part(
    'convolutions and modulation of the encoder, in all passes; pooled images'
    ' in all channels stand in',
    _stand_in(UNet, 'encode', _encode),
  ),
  'decoder': Part(
    'convolutions, modulation and interpolation of the decoder, in all passes;'
    ' sums of the encoder features stand in',
    _stand_in(UNet, 'decode', _decode),
  ),
  'projector': Part(
    'its three layers, interpolation and LayerNorm; the normalised last'
    ' features stand in',
    _stand_in(Projector, '__call__', _project),
    only='dbdc',
  ),
  'Sinkhorn': Part(
    "similarities and Sinkhorn's iterations; every pixel joins its label's"
    ' prototype (mpcl.assignment=label)',
    lambda w: make(dataclasses.replace(w, assignment='label')),
    only='dbdc',
  ),
  'losses': Part(
    'cross entropy, Dice and MPCL with their gradients; mean squares of logits'
    ' and embeddings stand in',
    _in(_no_losses),
  ),
  'optimizer': Part(
    "Adam's moments; plain gradient descent stands in",
    lambda w: make(w, optax.identity()),
  ),
}


def of(method: str) -> dict[str, Part]:
  """The parts that a method's step has."""
  return {
    name: part for name, part in PARTS.items() if part.only in (None, method)
  }
