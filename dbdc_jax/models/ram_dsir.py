"""The network of RAM-DSIR: an encoder and two decoders.

  encoder       five levels n, 2n, 4n, 8n, 16n, each three Conv3-norm, with a
                ReLU behind the second and the third; 2 x 2 maxima between them
  segmentation  per level [Conv3 to half, norm, ReLU], not in the first; up;
                1 x 1 to half, norm, ReLU; beside the encoder's level; Conv3,
                norm, ReLU; at the end Conv3 to the classes
  restoration   from the deepest level alone; per level Conv3 to half, up,
                1 x 1, Conv3, each with norm and ReLU; at the end Conv3 to the
                image, tanh

with n = `width` / 2 (16 in the published network). The restoration decoder's
norms belong to a domain; with one source modality there is one domain.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbdc_jax.models.blocks import Layer, Upsample, check_sides
from dbdc_jax.models.convolution import JoinedConv
from dbdc_jax.models.unet import Logits, max_pool
from dbdc_jax.ops.shapes import Slices

LEVELS = 5


class RamDsir(nn.Module):
  """Encoder, segmentation decoder, restoration decoder.

  Attributes:
    num_classes: C, background included.
    width: twice the channels of the first level.
    dtype: of activations; parameters, statistics and outputs are float32.
  """

  num_classes: int
  width: int = 32
  dtype: DTypeLike = jnp.float32

  def setup(self):
    """Makes the layers of the module's table, deepest decoder level first."""
    n = self.width // 2
    layer = lambda features, **kw: Layer(features, self.dtype, **kw)
    widths = [n * 2**level for level in range(LEVELS)]
    self.encoder = [[layer(w, relu=False), layer(w), layer(w)] for w in widths]
    below = widths[:-1][::-1]
    self.narrow = [layer(2 * w) for w in below[1:]]
    self.point = [layer(w, point=True) for w in below]
    self.join = [layer(2 * w) for w in below]
    self.logits = JoinedConv(self.num_classes, self.dtype)
    self.restore_narrow = [layer(w) for w in below]
    self.restore_point = [layer(w, point=True) for w in below]
    self.restore_last = [layer(w) for w in below]
    self.restored = JoinedConv(1, self.dtype)
    self.up = Upsample()

  def encode(self, x: Slices, train: bool) -> list[Array]:
    """The levels, finest first.

    Args:
      x: in [-1, 1]; H and W divisible by 16.
      train: use batch statistics.

    Raises:
      ValueError: for a size that does not divide by 16.
    """
    check_sides(x, LEVELS - 1)
    x, levels = x.astype(self.dtype), []
    for level, layers in enumerate(self.encoder):
      x = max_pool(x) if level else x
      for layer in layers:
        x = layer(x, train=train)
      levels.append(x)
    return levels

  def segment(self, levels: list[Array], train: bool) -> Logits:
    """Float32 logits."""
    x = levels[-1]
    for index, skip in enumerate(levels[-2::-1]):
      if index:
        x = self.narrow[index - 1](x, train=train)
      x = self.point[index](self.up(x), train=train)
      x = self.join[index](skip, x, train=train)
    logits, bias = self.logits(x)
    return logits.astype(jnp.float32) + bias

  def segmentation(self, x: Slices, train: bool) -> Logits:
    """Logits of images, without the restoration; see `encode`."""
    return self.segment(self.encode(x, train), train)

  def restore(self, deepest: Float[Array, 'N h w c'], train: bool) -> Slices:
    """Float32 images in [-1, 1]."""
    x = deepest
    parts = (self.restore_narrow, self.restore_point, self.restore_last)
    for narrow, point, last in zip(*parts, strict=True):
      x = self.up(narrow(x, train=train))
      x = last(point(x, train=train), train=train)
    image, bias = self.restored(x)
    return jnp.tanh(image.astype(jnp.float32) + bias)

  def __call__(self, x: Slices, train: bool) -> tuple[Logits, Slices]:
    """Logits and restored images of images in [-1, 1]."""
    levels = self.encode(x, train)
    return self.segment(levels, train), self.restore(levels[-1], train)
