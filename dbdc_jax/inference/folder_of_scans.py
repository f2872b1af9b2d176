"""Many scans, one after another; reading and writing overlap with computing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple

from data.files import atomic, names, progress
from data.formats import nnunet, scan_files
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError
from data.formats.scan_files import Source
from data.preprocessing import hounsfield, planes
from data.task import Modality
from dbdc_jax.inference import provenance, recognition, results, sliding_window
from dbdc_jax.inference.results import Job, SegmentedScan
from dbdc_jax.inference.segmentation import Segmentation
from dbdc_jax.workdir import run_record

_EDITED = 'its result was changed since it was made, and is left as it is'


@dataclasses.dataclass
class FolderOutcome:
  """What became of the scans.

  Attributes:
    done: names of those that were segmented.
    skipped: names of those whose results were there.
    notes: what people should know of them: name, phrase.
    errors: what was wrong with the others.
  """

  done: list[str] = dataclasses.field(default_factory=list)
  skipped: list[str] = dataclasses.field(default_factory=list)
  notes: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  errors: list[ScanError] = dataclasses.field(default_factory=list)


def find(
  place: str | os.PathLike[str], output: pathlib.Path, series: str = ''
) -> scan_files.Listing:
  """What the input holds, the output folder left out.

  Raises:
    ScanError: there is nothing.
    ValueError: results would lie among the scans.
  """
  place = pathlib.Path(place)
  found = scan_files.find(place, series=series, without=(output,))
  if place.is_dir():
    cases, problems = nnunet.channels(found.scans)
    found = found._replace(scans=cases, problems=found.problems + problems)
  files = [file for scan in found.scans.values() for file in scan.files()]
  provenance.check_output(output, place, files)
  return found


def check_names(output: pathlib.Path, found: scan_files.Listing) -> None:
  """Refuses results that this disk would take for one file.

  Raises:
    ScanError: naming both scans.
  """
  pairs = names.same_on_disk(found.scans)
  if not pairs or atomic.tells_capitals_apart(output):
    return
  one, other = pairs[0]
  raise ScanError(
    found.scans[other].path,
    f'the disk of {output} cannot tell {other} from {one}',
    'rename one of them, or give an --output on another disk',
  )


def _segment(
  job: Job, source: Source, volume: Volume, say: Callable[[str], None]
) -> tuple[Segmentation, Modality, dict[str, Any]]:
  """One scan: what was found, the modality it was taken for, and notes."""
  name, segmenter, said = job.modality, job.segmenter, {}
  if name == 'auto':
    fit = recognition.recognize(segmenter, volume)
    say(f'{source.name}: {fit}')
    if fit.modality is None:
      raise ScanError(
        source.path,
        f'no modality of the run fits: {fit}',
        'name it with --modality, if it is one that the run was trained on',
      )
    name, said = fit.modality, {'confidence': round(fit.confidence, 4)}
  modality = segmenter.runs[0].modality(name)
  found = segmenter.segment(volume.voxels, name, affine=volume.affine)
  notes = [*volume.notes, *_unusual(modality, volume, found)]
  return found, modality, said | {'modality': name, 'notes': notes}


def _unusual(
  modality: Modality, volume: Volume, found: Segmentation
) -> list[str]:
  """What is odd about a scan, or about what was found in it."""
  notes = []
  view = planes.cut(volume.affine, modality.plane)
  if planes.VIEWS[view] != planes.axes(modality.plane):
    notes.append(
      f'acquired as {view} slices, unlike the scans that {modality.name} was'
      ' trained on'
    )
  window = modality.intensity.window
  doubt = hounsfield.doubt(volume.voxels) if window and window[0] < 0 else ''
  if doubt:
    notes.append(doubt)
  if not found.classes.any():
    notes.append('nothing was found: the label map is empty')
  return notes


class _Read(NamedTuple):
  """A scan that was looked at: its hash, and its voxels if they are needed."""

  scan: str
  state: str
  volume: Volume | None


def _read(
  job: Job, source: Source, before: provenance.Result | None, measured: bool
) -> _Read:
  """Reads a scan whose result is not there, or has no line of volumes."""
  wanted = job.written(source)
  scan = provenance.digest(source.files())
  state = provenance.state(job.output, before, scan, job.made_with, wanted)
  if not job.overwrite and state == 'foreign':
    raise ScanError(
      job.output / wanted[-1],
      'is there, and was not made by this command from this scan',
      'give another --output, or --overwrite',
    )
  if state in ('done', 'edited') and measured and not job.overwrite:
    return _Read(scan, state, None)
  volume = scan_files.read(source)
  job.check(source, volume)
  return _Read(scan, state, volume)


def _segmented(
  job: Job,
  sources: Sequence[Source],
  outcome: FolderOutcome,
  say: Callable[[str], None],
  advance: Callable[[], None],
) -> Iterator[SegmentedScan]:
  """Segments what is not done; while one is computed, the next is read."""
  known = provenance.read(job.output)
  measured = job.measured()
  with futures.ThreadPoolExecutor(1) as reader:

    def read(source: Source) -> futures.Future[_Read]:
      line = measured is None or source.name in measured
      return reader.submit(_read, job, source, known.get(source.name), line)

    reading = sliding_window.ahead(read, sources)
    for source, waited in zip(sources, reading, strict=True):
      try:
        scan, state, volume = waited.result()
        if volume is not None:
          found, modality, said = _segment(job, source, volume, say)
      except ScanError as error:
        outcome.errors.append(error)
        advance()
        continue
      if volume is None:
        outcome.skipped.append(source.name)
        if state == 'edited':
          outcome.notes.append((source.name, _EDITED))
        advance()
        continue
      outcome.notes += [(source.name, note) for note in said['notes']]
      said['version'] = run_record.version()
      entry = provenance.Result(scan, job.made_with, {}, said)
      yield SegmentedScan(source, volume, found, modality, entry)


def run(
  job: Job, scans: Mapping[str, Source], *, quiet: bool = False
) -> FolderOutcome:
  """Segments scans into a folder.

  While one is computed, the next is read and the one before is written.

  Args:
    job: what is asked for; its output folder exists.
    scans: name -> scan.
    quiet: no progress bar, no messages.

  Raises:
    OSError: the disk took no more.
    ScanError: the folder's table of volumes is another table.
    ValueError: a result would replace a scan, or the output folder's own
      record is damaged.
  """
  outcome, sources = FolderOutcome(), list(scans.values())
  provenance.check_targets(
    job.output,
    [name for source in sources for name in job.written(source)],
    [file for source in sources for file in source.files()],
  )
  with futures.ThreadPoolExecutor(1) as writer, progress.bar(quiet) as bar:
    say = (lambda text: None) if quiet else bar.console.print
    task = bar.add_task('segmenting', total=len(sources))
    advance = functools.partial(bar.advance, task)

    def finish(writing: tuple[Source, futures.Future] | None) -> None:
      """Waits for what is written; a format's refusal is the scan's error."""
      if writing is None:
        return
      try:
        writing[1].result()
        outcome.done.append(writing[0].name)
      except ScanError as error:
        outcome.errors.append(error)
      advance()

    writing = None
    for scan in _segmented(job, sources, outcome, say, advance):
      finish(writing)
      writing = scan.source, writer.submit(results.write, job, scan)
    finish(writing)
  return outcome
