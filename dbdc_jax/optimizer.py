"""The optimizer and its learning rate."""

import ml_collections
import optax


def learning_rate(
  config: ml_collections.ConfigDict,
  finished: int,
  total_steps: int,
) -> float:
  """Polynomial decay from `optimizer.learning_rate` to 0 over `total_steps`.

  Plain numbers: an array would have to wait for the step that the device is at.

  Args:
    config: the run's config.
    finished: steps that are done.
    total_steps: steps of the whole run.
  """
  left = 1 - min(finished, total_steps) / total_steps
  return config.optimizer.learning_rate * left**config.optimizer.power


def build() -> optax.GradientTransformation:
  """Adam (the paper's section IV-B), without its learning rate.

  The step multiplies by minus that rate, which comes in as a number: runs of
  another length or rate share one compiled program.
  """
  return optax.scale_by_adam()
