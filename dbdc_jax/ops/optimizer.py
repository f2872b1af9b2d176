"""The optimizers and the learning rate."""

import optax


def share_left(finished: int, total_steps: int) -> float:
  """The share of a run's steps that is still to be done, in [0, 1]."""
  return 1 - min(finished, total_steps) / total_steps


def learning_rate(first: float, left: float, power: float) -> float:
  """Polynomial decay from the first learning rate to 0.

  Plain numbers: an array would have to wait for the step that the device is at.

  Args:
    first: the rate of the first step.
    left: the share of the run's steps that is still to be done.
    power: 1 is a straight line.
  """
  return first * left**power


def build() -> optax.GradientTransformation:
  """Adam (the paper's section IV-B), without its learning rate.

  The step multiplies by minus that rate, which comes in as a number: runs of
  another length or rate share one compiled program.
  """
  return optax.scale_by_adam()


def sgd(weight_decay: float) -> optax.GradientTransformation:
  """Gradient descent with momentum 0.9, without its learning rate.

  Args:
    weight_decay: times the parameters, added to the gradient before the
      momentum, as is usual for this optimizer.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.trace(decay=0.9)
  )


def scale_by_left(power: float) -> optax.GradientTransformationExtraArgs:
  """Multiplies by the run's share that is left to this power.

  The learning rate is one number for all parameters. A part of them whose rate
  falls faster has this behind its optimizer (`optax.multi_transform`).
  """

  def update(updates, state, params=None, *, left, **_):
    del params
    return optax.tree.scale(left**power, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )
