"""VarDA with a fully labelled source (the paper's Table I, "VarDA*").

Everything else as in `varda.py`.
"""

import ml_collections

from dbdc_jax.methods import varda
from dbdc_jax.methods.common import base


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`."""
  return varda.build(config, axis_name, full=True)
