"""The TFDS builder: prepared scans as ArrayRecord, without TensorFlow."""

from collections.abc import Iterator
import contextlib
import errno
import io
import logging
import os
import re
from typing import Any
import warnings
import zlib

# No questions to any server about data sets: everything is local.
os.environ.setdefault('NO_GCE_CHECK', 'true')

with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  import numpy as np
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2

from data.files import atomic

Rows = Iterator[dict[str, Any]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the library's progress bars, logs and warnings."""
  tfds.disable_progress_bar()
  absl = logging.getLogger('absl')
  level = absl.level
  absl.setLevel(logging.ERROR)
  try:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
      warnings.simplefilter('ignore')
      yield
  finally:
    absl.setLevel(level)


class Slices(tfds.core.GeneratorBasedBuilder):
  """One record per slice, one TFDS split per modality, in case order."""

  VERSION = tfds.core.Version('1.0.0')
  # What is written depends on the caller's settings alone.
  SKIP_REGISTERING = True

  def __init__(
    self,
    *,
    slice_size: int = 0,
    sources: dict[str, Rows] | None = None,
    **kwargs,
  ):
    """Makes the builder.

    Args:
      slice_size: side of the prepared slices.
      sources: split name -> its records; they are drawn once, in order.
      **kwargs: TFDS's own.
    """
    self._slice_size = slice_size
    self._sources = sources or {}
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    size = (self._slice_size, self._slice_size)
    tensor = lambda shape, dtype: tfds.features.Tensor(
      shape=shape, dtype=dtype, encoding='zlib'
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description='Prepared slices of CT and MR scans.',
      features=tfds.features.FeaturesDict(
        {
          'image': tensor(size, np.uint16),
          'label': tensor(size, np.uint8),
          'native_label': tensor((None, None), np.uint8),
          'case': tfds.features.Text(),
          'patient': tfds.features.Text(),
          'modality': tfds.features.Text(),
          'slice': tfds.features.Scalar(np.int32),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {name: enumerate(records) for name, records in self._sources.items()}

  def _generate_examples(self):
    raise NotImplementedError  # _split_generators gives the examples.


@contextlib.contextmanager
def _disk_errors(folder: str) -> Iterator[None]:
  """A full disk is told of in words only, by TFDS and by ArrayRecord."""
  try:
    yield
  except Exception as error:
    texts = {code: os.strerror(code) for code in atomic.DISK_ERRORS}
    texts[errno.ENOSPC] += '|Not enough disk space'
    for code, text in texts.items():
      known = isinstance(error, OSError) and error.errno is not None
      if re.search(text, str(error)) and not known:
        raise OSError(code, os.strerror(code), folder) from error
    raise


def write(folder: str, slice_size: int, sources: dict[str, Rows]) -> None:
  """Writes all records below `folder`.

  Raises:
    OSError: the disk took no more.
  """
  with quiet(), _disk_errors(folder):
    builder = Slices(
      slice_size=slice_size,
      sources=sources,
      data_dir=folder,
      file_format='array_record',
    )
    builder.download_and_prepare(
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
        try_download_gcs=False,
      ),
    )


class Records:
  """Random access to the arrays of a split's records."""

  def __init__(self, folder: str, split: str):
    """Opens what `write` wrote."""
    with quiet():
      found = tfds.builder_from_directory(f'{folder}/slices/1.0.0')
      self._whole = found.as_data_source(split)
    self._bytes = self._whole.data_source
    self._features = found.info.features

  def array(self, index: int, name: str) -> np.ndarray:
    """One array of a record; of fixed shape, nothing else is decoded.

    TFDS decodes whole records, which takes twice as long.
    """
    feature = self._features[name]
    if None in feature.shape:
      return self._whole[index][name]
    record = tf_example_pb2.Example.FromString(self._bytes[index])
    (packed,) = record.features.feature[name].bytes_list.value
    array = np.frombuffer(zlib.decompress(packed), feature.np_dtype)
    return array.reshape(feature.shape)
