"""MAW, modality-adaptive weights (equations 13 to 16).

Equations 14 to 16 as printed give a negative S, and then NaN: the logarithms
of falling scores are negative, and a sum of 20 scores makes 1 - P negative.
The Population Stability Index that they cite has terms delta * ln(ratio),
which are never negative; that is what is used here. Per modality and epoch,
with lambda the training DSC in [0, 1]:

  g       = (lambda_t - lambda_{t-1}) ln(lambda_t / lambda_{t-1})
  learn   <- (1 - 1/tau) learn   + (g if rising else 0) / tau
  unlearn <- (1 - 1/tau) unlearn + (0 if rising else g) / tau
  error   <- (1 - 1/tau) error   + (1 - lambda_t) / tau
  speed   = ((unlearn + s) / (learn + s))^beta
  omega   = clip(speed / geometric mean of all modalities' speeds) * error

scaled to sum to the number of modalities; 1 until two epochs have been seen.
The scaling makes the division matter to the clip alone. The smoothing s is 1e-8
as printed: less than what a dip of 0.1 % leaves in `unlearn` (6e-8 at a DSC of
0.88), which therefore tips the weights. With 1e-4 such a dip moves them by
0.01 %, one of 2 points by 2 %.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

TAU = 20.0
BETA = 0.2
SMOOTHING = 1e-8
# Lowest DSC that a logarithm is taken of.
FLOOR = 1e-3


class Weighting(NamedTuple):
  """MAW's state.

  Attributes:
    dice: last epoch's training DSC.
    learn: decayed sum of rising epochs' g.
    unlearn: decayed sum of falling epochs' g.
    error: decayed mean of 1 - DSC, 1 at the start.
    epochs: so many were seen.
    clip: bounds of the relative learning speed.
  """

  dice: Float[Array, ' K']
  learn: Float[Array, ' K']
  unlearn: Float[Array, ' K']
  error: Float[Array, ' K']
  epochs: Float[Array, '']
  clip: Float[Array, '2']


def init(
  num_modalities: int, clip: tuple[float, float] | None = None
) -> Weighting:
  """The state before the first epoch.

  Args:
    num_modalities: K.
    clip: bounds of the learning speed relative to the modalities' geometric
      mean; None leaves it free, as the paper does.
  """
  zeros = jnp.zeros(num_modalities)
  return Weighting(
    dice=zeros,
    learn=zeros,
    unlearn=zeros,
    error=jnp.ones(num_modalities),
    epochs=jnp.zeros(()),
    clip=jnp.array(clip if clip else (0.0, jnp.inf), jnp.float32),
  )


def update(state: Weighting, dice: Float[Array, ' K']) -> Weighting:
  """Takes in an epoch's training DSC in [0, 1]."""
  dice = jnp.clip(jnp.asarray(dice, jnp.float32), FLOOR, 1.0)
  # The first epoch has nothing to be compared with.
  before = jnp.where(state.epochs > 0, state.dice, dice)
  g = (dice - before) * jnp.log(dice / before)
  rising = dice > before
  keep = 1 - 1 / TAU
  return state._replace(
    dice=dice,
    learn=keep * state.learn + jnp.where(rising, g, 0.0) / TAU,
    unlearn=keep * state.unlearn + jnp.where(rising, 0.0, g) / TAU,
    error=keep * state.error + (1 - dice) / TAU,
    epochs=state.epochs + 1,
  )


def weights(
  state: Weighting, smoothing: float = SMOOTHING
) -> Float[Array, ' K']:
  """Omega (eq 13), sums to K.

  Args:
    state: after the epochs so far.
    smoothing: added to both of the learning speed's sums.
  """
  speed = BETA * jnp.log(
    (state.unlearn + smoothing) / (state.learn + smoothing)
  )
  relative = jnp.exp(speed - jnp.mean(speed))
  omega = jnp.clip(relative, state.clip[0], state.clip[1]) * state.error
  omega = omega * (omega.shape[0] / jnp.sum(omega))
  return jnp.where(state.epochs >= 2, omega, jnp.ones_like(omega))
