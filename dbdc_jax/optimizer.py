"""The optimizer and its learning rate, from the config."""

import ml_collections
import optax


def schedule(
  config: ml_collections.ConfigDict, total_steps: int
) -> optax.Schedule:
  """Polynomial decay from `learning_rate` to 0 over `total_steps`."""
  return optax.polynomial_schedule(
    init_value=config.optimizer.learning_rate,
    end_value=0.0,
    power=config.optimizer.power,
    transition_steps=total_steps,
  )


def build(
  config: ml_collections.ConfigDict, total_steps: int
) -> optax.GradientTransformation:
  """Adam with the polynomial schedule (the paper's section IV-B)."""
  return optax.adam(schedule(config, total_steps))
