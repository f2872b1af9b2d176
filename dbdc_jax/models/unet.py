"""The U-Net that all modalities share (method page, section "The network").

  conv0  1     1 -> w        u3  1/4  [x3, up(m)]  -> 8w (x4)
  d1     1     w -> 2w (x1)  u2  1/2  [x2, up(x4)] -> 4w (x5)
  d2     1/2  2w -> 4w (x2)  u1  1    [x1, up(x5)] -> 2w (x6)
  d3     1/4  4w -> 8w (x3)  head  1  2w -> (2w ->) w -> classes
  mid    1/8  8w -> 8w (m)

with w = `width` (32 in the paper), and every normalisation a `ModulationBank`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dbdc_jax.models.modulation import ModulationBank

LEAKY_SLOPE = 0.01
# Kaiming normal: fan-in, gain sqrt(2).
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def max_pool(x: jax.Array) -> jax.Array:
  """2 x 2 maximum, by reshaping: its gradient has no scatter."""
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def _double(x: jax.Array, axis: int) -> jax.Array:
  """Bilinear x2 along an axis, half-pixel centres: a 2-tap stencil."""
  size = x.shape[axis]
  before = jnp.concatenate(
    [
      jax.lax.slice_in_dim(x, 0, 1, axis=axis),
      jax.lax.slice_in_dim(x, 0, size - 1, axis=axis),
    ],
    axis,
  )
  after = jnp.concatenate(
    [
      jax.lax.slice_in_dim(x, 1, size, axis=axis),
      jax.lax.slice_in_dim(x, size - 1, size, axis=axis),
    ],
    axis,
  )
  even = 0.25 * before + 0.75 * x
  odd = 0.75 * x + 0.25 * after
  shape = list(x.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis + 1).reshape(shape)


def upsample(x: jax.Array) -> jax.Array:
  """`[N, H, W, c]` to `[N, 2H, 2W, c]`, bilinear, half-pixel centres."""
  return _double(_double(x, 1), 2)


class JoinedConv(nn.Module):
  """3 x 3 convolution of several inputs, as if they were concatenated.

  A convolution is linear: each input meets its share of the kernel and the
  results are added, so that no concatenation is written and none is split
  again in the gradient.
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
      jax.lax.conv_general_dilated(
        x.astype(self.dtype),
        share,
        (1, 1),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      for x, share in zip(inputs, shares, strict=True)
    ]
    return sum(parts[1:], parts[0]), bias


class ConvNorm(nn.Module):
  """3 x 3 convolution, modulation, leaky ReLU."""

  features: int
  num_modalities: int
  axis_name: str | None
  grouped: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, inputs, modality, train):
    """`[N, H, W, c]`, or a tuple of such, to `[N, H, W, features]`."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    x, bias = JoinedConv(self.features, self.dtype, name='conv')(*inputs)
    return ModulationBank(
      self.num_modalities,
      axis_name=self.axis_name,
      grouped=self.grouped,
      slope=LEAKY_SLOPE,
      name='modulation',
    )(x, modality, train, bias)


class UNet(nn.Module):
  """The network.

  Attributes:
    num_classes: C, background included.
    num_modalities: K; 1 makes every normalisation plain batch norm.
    width: channels of the first convolution.
    extra_head: DBDC's additional convolution in the head.
    axis_name: the device axis of batch statistics, or None.
    grouped: training batches are sorted by modality with equal counts.
    dtype: of activations; parameters, statistics and logits are float32.
  """

  num_classes: int
  num_modalities: int
  width: int = 32
  extra_head: bool = False
  axis_name: str | None = None
  grouped: bool = False
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    """Makes the layers of the module's table."""
    w = self.width

    def layer(features):
      return ConvNorm(
        features,
        self.num_modalities,
        self.axis_name,
        self.grouped,
        self.dtype,
      )

    def block(features):
      return [layer(features), layer(features)]

    self.conv0 = layer(w)
    self.d1, self.d2, self.d3 = block(2 * w), block(4 * w), block(8 * w)
    self.mid = block(8 * w)
    self.u3, self.u2, self.u1 = block(8 * w), block(4 * w), block(2 * w)
    self.head_layers = [layer(2 * w)] * self.extra_head + [layer(w)]
    self.logits = nn.Conv(
      self.num_classes, (3, 3), kernel_init=KERNEL_INIT, dtype=self.dtype
    )

  def _chain(self, layers, x, modality, train):
    for layer in layers:
      x = layer(x, modality, train)
    return x

  def encode(self, x, modality, train):
    """Encoder.

    Args:
      x: `[N, H, W, 1]` in [0, 1]; H and W divisible by 8.
      modality: `[N]` int32.
      train: use batch statistics.

    Returns:
      (x1, x2, x3, m) at 1, 1/2, 1/4 and 1/8 of the resolution.

    Raises:
      ValueError: for a size that does not divide by 8.
    """
    if x.shape[1] % 8 or x.shape[2] % 8:
      raise ValueError(
        f'images of {x.shape[1]} x {x.shape[2]} pixels: both sides must'
        ' divide by 8 (three poolings)'
      )
    x = self.conv0(x.astype(self.dtype), modality, train)
    x1 = self._chain(self.d1, x, modality, train)
    x2 = self._chain(self.d2, max_pool(x1), modality, train)
    x3 = self._chain(self.d3, max_pool(x2), modality, train)
    m = self._chain(self.mid, max_pool(x3), modality, train)
    return x1, x2, x3, m

  def decode(self, features, modality, train):
    """Decoder: (x1, x2, x3, m) to (x4, x5, x6) at 1/4, 1/2 and 1."""
    x1, x2, x3, m = features
    x4 = self._chain(self.u3, (x3, upsample(m)), modality, train)
    x5 = self._chain(self.u2, (x2, upsample(x4)), modality, train)
    x6 = self._chain(self.u1, (x1, upsample(x5)), modality, train)
    return x4, x5, x6

  def head(self, x6, modality, train):
    """Segmentation head: `[N, H, W, C]` float32 logits."""
    x = self._chain(self.head_layers, x6, modality, train)
    return self.logits(x).astype(jnp.float32)

  def __call__(self, x, modality, train):
    """`[N, H, W, 1]` images to `[N, H, W, C]` float32 logits."""
    features = self.encode(x, modality, train)
    taps = self.decode(features, modality, train)
    return self.head(taps[-1], modality, train)
