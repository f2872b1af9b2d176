"""Which label maps of two folders belong together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
import pathlib
import re
from typing import NamedTuple

from data.files import names
from data.formats import scan_files
from data.formats.scan_error import ScanError, table
from data.formats.scan_files import Listing, Source

# What archives and tools put around a case's name, one after the other: the
# channel of an image, the kind of the file, the prefixes of two archives.
_AFFIX = re.compile(
  r'_0000$|_(?:image|label|seg|gt|mask|pred)$'
  r'|^(?:img|label|volume-|segmentation-)(?=\d)',
  re.IGNORECASE,
)
_IMAGE, _LABEL = '_image', '_label'
_ENTROPY = '_entropy'
_SUFFIX = '.nii.gz'
# What evaluating and predicting write beside label maps.
OURS = (
  'evaluation.json', 'evaluation.csv', 'predictions.json', 'volumes.csv',
  'overlays',
)  # fmt: skip
_ENDINGS = re.compile(
  r'(?:\.(?:nii|gz|zip|img|hdr|mha|mhd|nrrd|dcm))+$', re.IGNORECASE
)


class Matched(NamedTuple):
  """A case with its two label maps."""

  name: str
  prediction: Source
  reference: Source


class Found(NamedTuple):
  """What two folders hold.

  Attributes:
    cases: those with both label maps, by name.
    missing: a finding for each label map without its partner.
    problems: a finding for each file that cannot be used, and for each case
      that has several files in one folder.
    left_out: a finding for each file that is no label map.
    total: how many cases there are.
    matched: what people should know of how names were matched.
  """

  cases: list[Matched]
  missing: list[ScanError]
  problems: list[ScanError]
  left_out: list[ScanError]
  total: int
  matched: str = ''


def file_name(error: ScanError) -> str:
  """The name of the file or folder that a finding is about."""
  return pathlib.Path(error.file).name


def _broken(folder: Listing) -> set[str]:
  """Names of cases whose file in a folder cannot be used."""
  stems = (_ENDINGS.sub('', file_name(e)) for e in folder.problems)
  return {names.case_name(stem) for stem in stems if stem}


def core(name: str) -> str:
  """A case's name without what archives and tools put around it."""
  while True:
    shorter = _AFFIX.sub('', name, count=1)
    if shorter in ('', name):
      return name
    name = shorter


def _folder(
  place: pathlib.Path, others: Sequence[pathlib.Path], *, reference: bool
) -> Listing:
  """The label maps of a folder, without what lies in the others inside of it.

  Entropy maps beside their label maps are none, and neither are, among the
  references, the images beside their label maps.

  Raises:
    ValueError: it holds none.
    ScanError: it is not there, or cannot be read.
  """
  inside = [p for p in others if place.resolve() in p.resolve().parents]
  found = scan_files.find(place, without=tuple(inside))
  outside = {p.name for p in inside}.union(OURS)
  left_out = [e for e in found.left_out if file_name(e) not in outside]
  if not found.scans and not found.problems:
    text = names.listed([file_name(e) for e in left_out])
    raise ValueError(
      f'{place}: holds no label map (NIfTI, MetaImage, NRRD or DICOM)'
      + (f'; it has {text}' if text else '')
    )
  maps = dict(found.scans)
  for name in found.scans:
    stem = name.removesuffix(_IMAGE)
    if name.removesuffix(_ENTROPY) in maps.keys() - {name}:
      del maps[name]
    elif reference and stem != name and stem + _LABEL in maps:
      reason = f'the image of {maps[stem + _LABEL].path.name}'
      left_out.append(ScanError(maps.pop(name).path, reason))
  return Listing(maps, found.problems, left_out)


def _grouped(found: Iterable[str]) -> dict[str, list[str]]:
  out: dict[str, list[str]] = {}
  for name in sorted(found):
    out.setdefault(core(name), []).append(name)
  return out


def _exact(
  predictions: Iterable[str], references: Iterable[str]
) -> dict[str, str]:
  """Prediction -> reference, of the same name or of the one that it gives.

  Names that a disk would refuse or misunderstand are written another way.
  """
  written = {
    names.on_disk(name, _SUFFIX).removesuffix(_SUFFIX): name
    for name in references
  }
  pairs = {
    name: written[names.original(name)]
    for name in predictions
    if names.original(name) in written
  }
  same = set(predictions) & set(references)
  pairs = {a: b for a, b in pairs.items() if not {a, b} & same}
  return pairs | {name: name for name in same}


def _pairs(
  predictions: Mapping[str, Source], references: Mapping[str, Source]
) -> tuple[list[Matched], dict[Source, ScanError], str]:
  """Cases; files of which several may be one case; which names differ."""
  pairs = _exact(predictions, references)
  doubtful: dict[Source, ScanError] = {}
  said = []
  theirs = _grouped(references.keys() - set(pairs.values()))
  for stem, mine in _grouped(predictions.keys() - pairs.keys()).items():
    others = theirs.get(stem, [])
    if others and len(mine) + len(others) > 2:
      sources = [predictions[name] for name in mine]
      sources += [references[name] for name in others]
      every = ', '.join(str(source.path) for source in sources)
      error = ScanError(
        sources[0].path,
        f'these may be one case: {every}',
        'name prediction and reference alike, or move the others away',
      )
      doubtful |= dict.fromkeys(sources, error)
    elif others:
      pairs[mine[0]] = others[0]
      said.append(f'{mine[0]} with {others[0]}')
  cases = [Matched(b, predictions[a], references[b]) for a, b in pairs.items()]
  text = (
    f'names that differ were matched: {names.listed(said, 3)}' if said else ''
  )
  return sorted(cases), doubtful, text


def _missing(
  here: Listing,
  there: Listing,
  place: pathlib.Path,
  kind: str,
  used: set[Source],
) -> Iterator[ScanError]:
  """A finding for each label map of a folder that was not matched."""
  unknown = _broken(there)
  for name, source in here.scans.items():
    if source not in used and name not in unknown:
      yield ScanError(
        source.path,
        f'no {kind} {name} in {place}',
        'add it, or leave such cases out: --allow-missing',
      )


def find(
  prediction: str | os.PathLike,
  reference: str | os.PathLike,
  output: str | os.PathLike = '',
) -> Found:
  """Matches predictions with references by their names.

  Names are the same however their accents are composed. Those that have no
  partner of the same name are compared without what archives and tools add
  (`core`), where that is one file of each folder. Two files, instead of
  folders, are one case.

  Args:
    prediction: folder of label maps.
    reference: another one; a case may have another format there.
    output: where results go: not looked into.

  Raises:
    ValueError: a folder is unreadable or holds no label map, both are one, or
      no name is in both.
    ScanError: a folder is not there.
  """
  places = pathlib.Path(prediction), pathlib.Path(reference)
  if places[0].resolve() == places[1].resolve():
    raise ValueError(
      f'{places[0]}: the predictions and the references are the same folder'
    )
  others = (*places, *([pathlib.Path(output)] if output else []))
  mine = _folder(places[0], others, reference=False)
  theirs = _folder(places[1], others, reference=True)
  cases, doubtful, text = _pairs(mine.scans, theirs.scans)
  if all(place.is_file() for place in places):
    pairs = zip(mine.scans.values(), theirs.scans.items(), strict=False)
    cases, text = [Matched(name, a, b) for a, (name, b) in pairs], ''
  unsure = list(dict.fromkeys(doubtful.values()))
  problems = mine.problems + theirs.problems + unsure
  used = {source for case in cases for source in case[1:]} | doubtful.keys()
  missing = [
    *_missing(theirs, mine, places[0], 'prediction', used),
    *_missing(mine, theirs, places[1], 'reference', used),
  ]
  if not cases:
    shown = [names.listed([*f.scans]) or 'none' for f in (mine, theirs)]
    raise ValueError(
      f'no name is in both folders: predictions {shown[0]}; references'
      f' {shown[1]}; rename one side'
      + ('\n' + table(problems) if problems else '')
    )
  left_out = mine.left_out + theirs.left_out
  total = len(cases) + len(missing) + len(unsure)
  total += len(_broken(mine) | _broken(theirs))
  return Found(cases, missing, problems, left_out, total, text)
