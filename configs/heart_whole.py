"""The heart task on whole scans, not cropped to the label's bounding box.

  python -m dbdc_jax.main --config configs/heart_whole.py
  python -m dbdc_jax.main --config configs/heart_whole.py:scans=/data/mmwhs

The paper crops to the reference's box, which a new scan does not have. Here
nothing about the label is known beforehand: what the test says is what a new
scan can expect. Slices are larger, so that a heart has about as many pixels.
"""

import ml_collections

from configs import heart


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; see `configs/heart.py` for `argument`."""
  config = heart.get_config(argument)
  config.data.roi = 'none'
  config.data.slice_size = config.data.slice_size * 5 // 4
  config.expectation = ''
  return config
