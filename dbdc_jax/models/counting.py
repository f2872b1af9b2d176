"""Parameters and multiply-accumulates, counted from the networks themselves.

The rule behind the paper's FLOPs column: a convolution costs Cin * k * k * Cout
per output pixel, a normalisation 4 and a bilinear interpolation 11 per value,
everything else nothing. A transposed convolution counts as a convolution with
its output's size, although a stride of 2 leaves most of its products out.
Instance norms without parameters: 2 per value of volumes, nothing of images,
because no single number gives both MASS's and VarDA's columns. Shapes come from
tracing the network: nothing is computed.
"""

from collections.abc import Callable
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from dbdc_jax.models import blocks, registration
from dbdc_jax.models.convolution import JoinedConv
from dbdc_jax.models.instance_norm import InstanceNorm
from dbdc_jax.models.modulation import ModulationBank
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet

_NORM, _BILINEAR = 4, 11
# Values of a kernel, for each input channel.
_KERNELS = {
  nn.Dense: 1,
  blocks.Doubling: 2**2,
  registration.Conv3: 3**3,
  registration.Doubling: 4**3,
}
# What each output value costs.
_VALUES = {ModulationBank: _NORM, blocks.Upsample: _BILINEAR}


def _size(x: Array | jax.ShapeDtypeStruct) -> int:
  return math.prod(x.shape)


def _layer(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> int:
  """Multiply-accumulates of one layer from its inputs and output."""
  kind, x = type(module), inputs[0]
  if kind is JoinedConv:
    return _size(out[0]) * 3**2 * sum(part.shape[-1] for part in inputs)
  if kind is nn.Conv:
    return _size(out) * math.prod(module.kernel_size) * x.shape[-1]
  if kind in _KERNELS:
    return _size(out) * _KERNELS[kind] * x.shape[-1]
  if kind is InstanceNorm:
    return _NORM // 2 * _size(x) if x.ndim == 5 else 0
  return _size(out) * _VALUES[kind] if kind in _VALUES else 0


def _first_layer(taps, naive: bool) -> int:
  """The projector's first layer with the interpolation of its taps."""
  x6 = taps[-1]
  pixels = math.prod(x6.shape[1:3])
  width = sum(x.shape[-1] for x in taps)
  if naive:
    return pixels * width * width + _tap_cost(taps)
  layer = sum(_size(x) * width for x in taps)
  return layer + _BILINEAR * pixels * width * (len(taps) - 1)


def _tap_cost(taps) -> int:
  """Interpolating the lower taps to full resolution."""
  pixels = math.prod(taps[-1].shape[1:3])
  return _BILINEAR * pixels * sum(x.shape[-1] for x in taps[:-1])


def macs(function: Callable[..., Any], *arguments: Any) -> int:
  """Multiply-accumulates of whatever applies networks.

  Args:
    function: applies modules that are built from the layers of `models/`.
    *arguments: its own; shapes are enough.
  """
  total = 0

  def count(next_function, args, kwargs, context):
    nonlocal total
    out = next_function(*args, **kwargs)
    if context.method_name == '__call__':
      total += _layer(context.module, args, out)
      if isinstance(context.module, Projector):
        total += _first_layer(args[0], naive=False)
    elif context.method_name == 'decode' and isinstance(context.module, UNet):
      *_, m = args[0]
      # The decoder doubles m, x4 and x5.
      total += sum(4 * _BILINEAR * _size(x) for x in (m, *out[:2]))
    return out

  with nn.intercept_methods(count):
    # A new function: a remembered trace would not be counted.
    jax.eval_shape(lambda *x: function(*x), *arguments)
  return total


def of_unet(
  unet: UNet,
  patch: int,
  projector: Projector | None = None,
  *,
  paper: bool = False,
) -> tuple[int, int]:
  """Trainable parameters, and multiply-accumulates of one square patch.

  Args:
    unet: the network.
    patch: side in pixels.
    projector: counted too if given, with its logits' LayerNorm.
    paper: the paper's form: the projector's taps are interpolated always
      (also without a projector, if the network has DBDC's head), and its
      first layer acts on their concatenation.
  """
  key = jax.random.key(0)
  x, modality = jnp.zeros((1, patch, patch, 1)), jnp.zeros(1, jnp.int32)

  def passed(variables):
    apply = lambda *a, method: unet.apply(
      variables, *a, modality, False, method=method
    )
    taps = apply(apply(x, method='encode'), method='decode')
    apply(taps[-1], method='head')
    return taps

  size = lambda tree: sum(_size(x) for x in jax.tree.leaves(tree))
  variables = jax.eval_shape(lambda k: unet.init(k, x, modality, False), key)
  count, total = size(variables['params']), macs(passed, variables)
  taps = jax.eval_shape(passed, variables)
  if projector is not None:
    weights = jax.eval_shape(projector.init, key, taps)
    # Scale and bias of the prototype logits' LayerNorm over the classes.
    count += size(weights) + 2 * unet.num_classes
    total += macs(projector.apply, weights, taps)
    if paper:
      total += _first_layer(taps, naive=True) - _first_layer(taps, naive=False)
  elif paper and unet.extra_head:
    total += _tap_cost(taps)
  return count, total
