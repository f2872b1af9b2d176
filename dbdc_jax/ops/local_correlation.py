"""How alike two registered volumes are."""

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Side of the windows that are compared, in voxels.
WINDOW = 9
_EPSILON = 1e-5


def _box(x: Float[Array, 'N D H W']) -> Float[Array, 'N D H W']:
  """Sums over windows, one axis at a time; 0 outside."""
  for axis in (1, 2, 3):
    window = [1] * x.ndim
    window[axis] = WINDOW
    x = lax.reduce_window(x, 0.0, lax.add, window, (1,) * x.ndim, 'SAME')
  return x


def local_correlation(
  a: Float[Array, 'N D H W'], b: Float[Array, 'N D H W']
) -> Float[Array, 'N D H W']:
  """Squared correlation coefficient in the window around each voxel.

  As in VoxelMorph: windows of 9 x 9 x 9 voxels, those outside being 0.

  Returns:
    In [0, 1]; 0 where either does not vary.
  """
  count = WINDOW**3
  mean_a, mean_b = _box(a) / count, _box(b) / count
  cross = _box(a * b) - count * mean_a * mean_b
  of_a = _box(a * a) - count * mean_a * mean_a
  of_b = _box(b * b) - count * mean_b * mean_b
  # Rounding may leave a variance below 0.
  product = jnp.maximum(of_a, 0.0) * jnp.maximum(of_b, 0.0)
  return jnp.clip(jnp.square(cross) / (product + _EPSILON), 0.0, 1.0)
