"""3 x 3 convolutions of several inputs, and their gradient on CPU."""

import flax.linen as nn
import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp
import numpy as np

# Kaiming normal: fan-in, gain sqrt(2).
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
# The kernel's gradient on CPU is taken for so many pixels at a time, at least
# one image's: what is summed over then stays in the cache.
_CPU_PIXELS = 20_000
# With fewer features than this it is taken at once.
_CPU_FEATURES = 32


def _apply(x, kernel):
  return lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution with zero padding, stride 1.

  Args:
    x: `[N, H, W, c]`.
    kernel: `[k, k, c, features]`, k odd.

  Returns:
    `[N, H, W, features]`.
  """
  return _apply(x, kernel)


def _kernel_gradient(x, gradient, kernel):
  (found,) = jax.linear_transpose(lambda k: _apply(x, k), kernel)(gradient)
  return found


def _as_stored(gradient):
  """Transposed at once where cuDNN gave the gradient another layout.

  Otherwise the optimizer's pass does, and so cannot write a parameter and its
  moments in their places: each is copied.
  """
  return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))


def _kernel_gradient_exchanged(x, gradient, kernel):
  """Image and gradient change places: the image slides over the gradient."""
  reach = kernel.shape[0] // 2
  found = lax.conv_general_dilated(
    gradient,
    x,
    (1, 1),
    ((reach, reach), (reach, reach)),
    # Channels are the batch, samples are summed over: [k, k, features, c].
    dimension_numbers=lax.ConvDimensionNumbers(
      (3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1)
    ),
  )
  return found[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient_in_parts(x, gradient, kernel):
  """The sum over parts of the batch.

  For a whole batch XLA moves the samples innermost and takes up to 2.5 times
  longer. A loop would be compiled without the fast convolution: unrolled.
  """
  images = len(x)
  most = max(1, _CPU_PIXELS // (x.shape[1] * x.shape[2]))
  each = max(n for n in range(1, min(most, images) + 1) if images % n == 0)
  parts = [
    _kernel_gradient(x[i : i + each], gradient[i : i + each], kernel)
    for i in range(0, images, each)
  ]
  return sum(parts[1:], parts[0])


def _cpu_form(kernel):
  """The fastest of the three on CPU, as measured: see docs/speed.md."""
  channels, features = kernel.shape[2:]
  if features >= _CPU_FEATURES:
    return _kernel_gradient_in_parts
  return (
    _kernel_gradient_exchanged if channels >= features else _kernel_gradient
  )


def _backward(kept, gradient):
  x, kernel = kept
  (dx,) = jax.linear_transpose(lambda y: _apply(y, kernel), x)(gradient)
  shape = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
  dkernel = lax.platform_dependent(
    x,
    gradient,
    cpu=lambda x, g: _cpu_form(shape)(x, g, shape),
    cuda=lambda x, g: _as_stored(_kernel_gradient(x, g, shape)),
    default=lambda x, g: _kernel_gradient(x, g, shape),
  )
  return dx, dkernel


convolve.defvjp(lambda x, kernel: (_apply(x, kernel), (x, kernel)), _backward)


class JoinedConv(nn.Module):
  """3 x 3 convolution of several inputs, as if they were concatenated.

  A convolution is linear: each input meets its share of the kernel and the
  results are added, so that no concatenation is written and none is split
  again in the gradient.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convolves.

    Args:
      *inputs: `[N, H, W, c_i]`.

    Returns:
      `[N, H, W, features]` without the bias, and the bias `[features]`.
    """
    channels = [x.shape[-1] for x in inputs]
    shape = (3, 3, sum(channels), self.features)
    kernel = self.param('kernel', KERNEL_INIT, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    shares = jnp.split(kernel, np.cumsum(channels[:-1]), 2)
    parts = [
      convolve(x.astype(self.dtype), share)
      for x, share in zip(inputs, shares, strict=True)
    ]
    return sum(parts[1:], parts[0]), bias
