"""How far the latents of two domains are apart, by kernels.

Wu and Zhuang, "Unsupervised domain adaptation with variational approximation
for cardiac segmentation" (2021). Each image of a domain is a Gaussian per
element of the latent; their mean over the images is the domain's density, and
the distance is the integral of the squared difference of both densities:

  mean over elements, images i, j of k(a_i, a_j) + k(b_i, b_j) - 2 k(a_i, b_j)
  k = exp(-(m_i - m_j)^2 / (2 (v_i + v_j))) / sqrt(v_i + v_j)

with means m and variances v. The published one is the sum, over the elements
and pairs of one size of image and batch.
"""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dbdc_jax.runtime import over_devices


def pooled(
  mean: Float[Array, 'N h w c'],
  variance: Float[Array, 'N h w c'],
  side: int = 4,
) -> tuple[Float[Array, 'N rows columns c'], Float[Array, 'N rows columns c']]:
  """Mean and variance of the latent's mean over squares.

  The variance of a mean of n independent values is a further n times smaller
  than the mean of theirs.

  Args:
    mean: of each element.
    variance: of each element.
    side: of a square, in pixels; what is left over at the edge is dropped.
  """

  def squares(x):
    n, h, w, c = x.shape
    side_h, side_w = min(side, h), min(side, w)
    rows, columns = h // side_h, w // side_w
    x = x[:, : rows * side_h, : columns * side_w]
    x = x.reshape(n, rows, side_h, columns, side_w, c)
    return x.mean((2, 4)), side_h * side_w

  (mean, _), (variance, count) = squares(mean), squares(variance)
  return mean, variance / count


def _kernel_sum(one, other):
  """The kernels of all pairs and elements; one row of pairs at a time.

  The gradient computes a row anew: neither holds more than one.
  """
  means, variances = other

  @jax.checkpoint
  def row(image):
    mean, variance = image
    both = variance + variances
    kernel = jnp.exp(-0.5 * jnp.square(mean - means) / both) * lax.rsqrt(both)
    return jnp.sum(kernel)

  return jnp.sum(lax.map(row, one))


def distance(
  a: Sequence[Float[Array, 'n ...']], b: Sequence[Float[Array, 'n ...']]
) -> Float[Array, '']:
  """The distance, over the images of all devices.

  Args:
    a: means and variances of the images of a domain on this device.
    b: as many of the other domain.

  Returns:
    Float32, per element and pair of images; 0 for equal domains.
  """
  a, b = (
    [x.reshape(len(x), -1).astype(jnp.float32) for x in d] for d in (a, b)
  )
  all_a, all_b = ([over_devices.gathered(x) for x in d] for d in (a, b))
  found = _kernel_sum(a, all_a) + _kernel_sum(b, all_b)
  found -= 2 * _kernel_sum(a, all_b)
  count, elements = all_a[0].shape
  return over_devices.total(found) / (count**2 * elements)
