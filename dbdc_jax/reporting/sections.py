"""A run as parts of the page: from its log, and from its scans and networks."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from data.cache.prepared import Prepared
from data.preparation import BadScans
from data.preprocessing import preprocess
from dbdc_jax.evaluation import pictures, scoring
from dbdc_jax.reporting import (
  charts,
  curves,
  features,
  page,
  predictions,
  projection,
  pseudo_labels,
  surfaces,
)
from dbdc_jax.reporting.predictions import Prediction
from dbdc_jax.reporting.runs import Data, FinishedRun

_TURNS = (0, 45)
_KINDS = {
  'features': 'Features after the last modulation layer',
  'prototypes': 'Prototypes',
  'embeddings': 'Embeddings after the projector',
}


def _overlay(found: Prediction, prepared: Prepared, classes, rank: str) -> str:
  case, index = found.case, pictures.choose_slices(found.reference, 1)[0]
  image = preprocess.image_to_native(prepared.image(case, index), case.geometry)
  name = f'{case.name}, slice {index}'
  png = pictures.overlay_png(
    image,
    found.reference[index],
    found.label[index],
    classes,
    title=name,
    spacing=case.spacing[1:],
  )
  text = f'{case.modality}, {rank}: {name}, mean DSC {found.dice:.1f} %'
  return page.picture(png, text)


def _solid(found: Prediction) -> str:
  """Reference and prediction from two sides."""
  geometry = found.case.geometry
  views = [
    surfaces.render(
      *surfaces.upright(label, geometry), pictures.COLOURS, turn=turn
    )
    for turn in _TURNS
    for label in (found.reference, found.label)
  ]
  joined = np.concatenate(views, 1)
  png = io.BytesIO()
  Image.fromarray(joined).save(png, 'PNG')
  sides = ' and '.join(f'at {turn} degrees' for turn in _TURNS)
  text = (
    f'{found.case.modality}: {found.case.name}; reference and prediction from'
    f' the front, {sides}'
  )
  return page.picture(png.getvalue(), text)


def _pictures(run: FinishedRun, data: Data) -> str:
  """Overlays and surfaces of the scans that the rule chooses (Figures 4, 5)."""
  found = predictions.predict(run, data)
  flat, solid = [], []
  for modality in run.modalities:
    mine = {k: p for k, p in found.items() if p.case.modality == modality}
    ranks = predictions.choose({k: p.dice for k, p in mine.items()})
    flat += [
      _overlay(mine[name], data.prepared, run.classes, rank)
      for rank, name in ranks.items()
    ]
    middle = ranks.get('median', ranks.get('best'))
    if middle is not None:
      solid.append(_solid(mine[middle]))
  text = (
    'Chosen by rule: of each modality the test scans with the best, the'
    ' median and the worst mean DSC, each in the slice with most foreground;'
    ' the median (of two scans the better) also as surfaces.'
  )
  return page.note(text) + page.row(*flat) + page.row(*solid)


def _features(run: FinishedRun, data: Data) -> str:
  """Figure 6."""
  colours, figures = curves.class_colours(run.classes), []
  found = features.collect(run, data)
  for kind, title in _KINDS.items():
    if kind not in found:
      continue
    points = found[kind]
    flat = projection.plane(points.values)
    names = np.array(points.modalities)
    groups = [
      charts.Dots(
        run.classes[c],
        modality,
        flat[(points.classes == c) & (names == modality)],
        colours[run.classes[c]],
      )
      for modality in dict.fromkeys(points.modalities)
      for c in np.unique(points.classes)
    ]
    size = 5.0 if kind == 'prototypes' else 2.2
    svg = charts.scatter(title, groups, size)
    figures.append(page.figure(svg, f'{title}, {len(flat)} points'))
  if not figures:
    return page.note(
      'Networks of one modality each have no features in common.'
    )
  words = (
    f'{features.METHOD} {projection.METHOD} Colour: class; shape: modality.'
  )
  return page.row(*figures) + page.note(words)


def _pseudo_labels(run: FinishedRun, data: Data, limit: int) -> str:
  rows = pseudo_labels.quality(run, data, limit)
  if not rows:
    return page.note('There are no unlabelled training scans with a reference.')
  colours = curves.modality_colours(run.trained)
  mean = lambda row: scoring.mean(row['dice'].values())
  lines = [
    charts.Line(
      name,
      [row['epoch'] for row in mine],
      [mean(row) for row in mine],
      colours[name],
    )
    for name in run.trained
    if (mine := [r for r in rows if r['modality'] == name and r['epoch']])
  ]
  head = ['modality', 'epoch', *run.classes[1:], 'mean', 'scans', 'note']
  table = [
    [row['modality'], row['epoch'] or '-']
    + [scoring.number(row['dice'][name]) for name in run.classes[1:]]
    + [scoring.number(mean(row)), row['scans'], 'tested' if row['best'] else '']
    for row in rows
  ]
  title = 'DSC (%) on unlabelled training scans, per kept checkpoint'
  return (
    page.figure(charts.lines(title, lines), title)
    + page.table(head, table)
    + page.note(pseudo_labels.METHOD)
  )


def _from_data(run: FinishedRun, limit: int) -> list[page.Section]:
  """What needs the scans and the networks; says so where they are gone."""
  makers: dict[str, Any] = {
    'Test scans': _pictures,
    'Features': _features,
    'Pseudo-labels': functools.partial(_pseudo_labels, limit=limit),
  }
  try:
    data = run.data()
  except (BadScans, ValueError, OSError) as error:
    text = page.note(f'Not shown, the scans cannot be read: {error}')
    return [page.Section(title, text) for title in makers]
  out = []
  for title, make in makers.items():
    try:
      html = make(run, data)
    except (ValueError, OSError) as error:
      html = page.note(f'Not shown: {error}')
    out.append(page.Section(title, html))
  return out


def tab(title: str, run: FinishedRun, limit: int) -> page.Tab:
  """Everything about a run.

  Args:
    title: its name.
    run: the run.
    limit: unlabelled scans of each modality that are scored.
  """
  return page.Tab(
    title,
    [
      curves.summary(run),
      curves.training(run),
      curves.scores(run),
      *_from_data(run, limit),
      curves.settings(run),
    ],
  )
