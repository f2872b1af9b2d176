"""RAM-DSIR with a fully labelled source (the paper's Table I, "RAM-DSIR*").

Everything else as in `ram_dsir.py`.
"""

import ml_collections

from dbdc_jax.methods import ram_dsir
from dbdc_jax.methods.common import base


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`."""
  return ram_dsir.build(config, axis_name, full=True)
