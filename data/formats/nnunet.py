"""nnU-Net's dataset.json, in its old and its new form, read as a task.

  new   {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
  old   {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}

A class may have several codes (a region). A voxel has one class here, so that
regions that overlap are refused. `ignore` is what was not annotated.
"""

from collections.abc import Collection, Mapping
import contextlib
import re
from typing import Any
import unicodedata

from data.formats.scan_error import ScanError
from data.formats.scan_source import Source

# What voxels that nobody annotated are called.
IGNORE = 'ignore'
_KEYS = {
  'labels', 'channel_names', 'modality', 'file_ending', 'numTraining',
  'training',
}  # fmt: skip
MEND = 'mend it, or move it away'
# The number of an image's channel.
_CHANNEL = re.compile(r'(.+)_(\d{4})')
# The grey values that abdominal CT is shown with, HU.
CT_WINDOW = [-125.0, 275.0]
PERCENTILE = 99.5


class NotUsableError(ValueError):
  """What cannot be trained here.

  Attributes:
    reason: why.
    remedy: what to do about it.
  """

  def __init__(self, reason: str, remedy: str):
    self.reason, self.remedy = reason, remedy
    super().__init__(f'{reason}; {remedy}')


def _need(sound: object, reason: str, remedy: str = MEND) -> None:
  if not sound:
    raise NotUsableError(reason, remedy)


def is_one(found: Any) -> bool:
  """Whether a JSON's content is nnU-Net's rather than our own."""
  known = isinstance(found, dict) and 'modalities' not in found
  return known and not _KEYS.isdisjoint(found)


def codes(found: Mapping[str, Any]) -> dict[str, list[int]]:
  """Class (or `IGNORE`) -> its codes, background left out.

  Args:
    found: the JSON's content.

  Raises:
    NotUsableError: regions overlap, or the labels are no names and codes.
  """
  labels: Any = found.get('labels')
  named = isinstance(labels, dict) and labels
  _need(named, 'labels must give each class its code')
  old = any(isinstance(value, str) for value in labels.values())
  out: dict[str, list[int]] = {}
  for key, value in labels.items():
    name, numbers = (value, key) if old else (key, value)
    numbers = numbers if isinstance(numbers, list) else [numbers]
    with contextlib.suppress(ValueError):
      numbers = [int(key)] if old else numbers
    whole = numbers and all(type(n) is int for n in numbers)
    words = f'labels: {key!r}: {value!r} is no name with a whole number'
    _need(whole and isinstance(name, str), words)
    if name.strip().lower() == IGNORE:
      name = IGNORE
    if name.strip().lower() != 'background' and numbers != [0]:
      out.setdefault(name, []).extend(numbers)
  _need(out.keys() - {IGNORE}, 'labels name no class but background')
  owner: dict[int, str] = {}
  for name, number in ((n, c) for n, codes in out.items() for c in codes):
    other = owner.setdefault(number, name)
    _need(
      other == name,
      f'regions overlap: code {number} is in {other!r} and in {name!r}, and a'
      ' voxel has one class here',
      'list the codes one by one, each with a name of its own',
    )
  return out


def _channel(found: Mapping[str, Any]) -> str:
  """The name of the only channel."""
  channels = found.get('channel_names', found.get('modality')) or {'0': 'image'}
  sound = isinstance(channels, dict | list)
  _need(sound, f'channel_names must name the channels: {channels!r}')
  listed = list(channels.values() if isinstance(channels, dict) else channels)
  told = ', '.join(map(str, listed))
  _need(
    len(listed) == 1,
    f'{len(listed)} channels ({told}), and a modality is one',
    'put the scans of each channel into a folder of its own, MODALITY/images/,'
    ' with their label maps in MODALITY/labels/',
  )
  return str(listed[0])


def clean(name: str) -> str:
  """A name as a modality may have it: letters, digits, '_' and '-'."""
  name = unicodedata.normalize('NFKD', name).encode('ascii', 'ignore').decode()
  return re.sub(r'[^A-Za-z0-9-]+', '_', name).strip('_-')


def intensity(ct: bool) -> dict[str, Any]:
  """First guess of how a modality's values are treated."""
  return {'window': CT_WINDOW} if ct else {'upper_percentile': PERCENTILE}


def task(found: Mapping[str, Any]) -> dict[str, Any]:
  """The content of our own dataset.json that means the same.

  Args:
    found: the content of nnU-Net's, which lies beside imagesTr/.

  Raises:
    NotUsableError: it cannot be trained here.
  """
  title = _channel(found)
  name = clean(title).lower() or 'image'
  fields = {
    'title': title,
    'folder': '.',
    'labels': codes(found),
    'intensity': intensity(name == 'ct'),
  }
  out: dict[str, Any] = {'modalities': {name: fields}}
  if isinstance(found.get('name'), str):
    out['name'] = found['name']
  return out


def channels(
  scans: Mapping[str, Source], labels: Collection[str] = ()
) -> tuple[dict[str, Source], list[ScanError]]:
  """Images as nnU-Net names them, CASE_0000, by case.

  Names are of that form only where some end in _0000, and where no label map
  has one of these names: patient_1001 is a name.

  Args:
    scans: name -> image.
    labels: the names of the label maps, where they are known.

  Returns:
    Case -> image, and what is wrong: other channels, and names without one.
  """
  split = {name: _CHANNEL.fullmatch(name) for name in scans}
  first = [n for n, found in split.items() if found and found[2] == '0000']
  if not first or set(labels) & set(scans):
    return dict(scans), []
  out, problems = {}, []
  for name, source in scans.items():
    found = split[name]
    if found and found[2] == '0000':
      out[found[1]] = source._replace(name=found[1])
      continue
    reason = f'no channel number, and {scans[first[0]].path.name} has one'
    remedy = "end all names in _0000 (nnU-Net's way), or none"
    if found:
      name, channel = found.groups()
      reason = f'channel {channel} of scan {name!r}: a modality is one channel'
      remedy = 'give each channel a modality folder of its own'
    problems.append(ScanError(source.path, reason, remedy))
  return out, problems
