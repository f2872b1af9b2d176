"""One or several runs to a page."""

from collections.abc import Sequence
import os
import pathlib

from data import preparation
from dbdc_jax.reporting import curves, page, runs, sections
from dbdc_jax.runtime import compilation_cache, parallel


def _names(found: Sequence[runs.FinishedRun]) -> list[str]:
  """The folders' names, with as much of their path as tells them apart."""
  for depth in range(1, 32):
    names = ['/'.join(run.workdir.parts[-depth:]) for run in found]
    if len(set(names)) == len(names):
      return names
  raise ValueError('a run is named twice')


def write(
  workdirs: Sequence[str | os.PathLike[str]],
  output: str | os.PathLike[str] | None = None,
  pseudo_labels: int = 4,
) -> str:
  """Writes a report; returns its file.

  Args:
    workdirs: of finished runs; several are compared.
    output: the file; `report.html` in the first workdir by default.
    pseudo_labels: how many unlabelled scans of each modality are scored.

  Raises:
    ValueError: a folder holds no finished run, or `output` is another file.
    OSError: the disk is full.
  """
  place = str(output or pathlib.Path(workdirs[0], 'report.html'))
  found = [runs.read(os.fspath(workdir)) for workdir in workdirs]
  page.check(place)
  names = _names(found)
  compilation_cache.use(preparation.cache_folder(found[0].config.data.cache))
  tabs = []
  for name, run in zip(names, found, strict=True):
    print(f'{name} ({parallel.describe()})', flush=True)
    tabs.append(sections.tab(name, run, pseudo_labels))
  if len(found) > 1:
    both = curves.comparison(list(zip(names, found, strict=True)))
    tabs.insert(0, page.Tab('Comparison', [both]))
  colours: dict[str, str] = {}
  for run in found:
    colours |= curves.class_colours(run.classes)
  tasks = dict.fromkeys(run.results['run']['task'] for run in found)
  title = f'{", ".join(tasks)}: report'
  html = page.build(title[:1].upper() + title[1:], tabs, list(colours.items()))
  page.write(html, place)
  return place
