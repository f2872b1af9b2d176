"""A run's scans: prepared, split, and those of a part of the split."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import zlib

import numpy as np

from data import preparation
from data import split as splits
from data.cache.prepared import Prepared, PreparedCase
from data.phantoms import phantom
from data.split import Split
from data.task import TASKS, UNKNOWN
from dbdc_jax import methods
from dbdc_jax.methods.common.transfer import Transfer
from dbdc_jax.workdir.run_folder import SPLIT


def folders(problem: methods.Problem) -> dict[str, str]:
  """Archive -> folder of the run's scans; without any, the phantom's.

  Raises:
    ValueError: folders that are missing.
  """
  config, modalities = problem.config, problem.modalities
  roots = {m.source: config.data[m.source] for m in modalities}
  missing = [source for source, root in roots.items() if not root]
  if len(missing) == len(roots) and config.task in TASKS:
    roots = phantom_folders(
      config.task, **config.phantom, cache=config.data.cache
    )
    unknown = [source for source in missing if source not in roots]
    if unknown:
      raise ValueError(
        f'the phantom has no {", ".join(unknown)}: give scans=DIR, or choose'
        ' other --config.modalities'
      )
  elif missing:
    raise ValueError(
      f'no folder for {", ".join(missing)}: give scans=DIR, or'
      f' {missing[0]}=DIR behind the config, or choose other'
      ' --config.modalities'
    )
  return roots


def load(problem: methods.Problem) -> Prepared:
  """Prepares the run's scans, see `folders`.

  Raises:
    preparation.BadScans: scans that cannot be used.
    ValueError: folders that are missing.
  """
  config = problem.config
  return preparation.prepare(
    problem.task,
    problem.modalities,
    folders(problem),
    slice_size=config.data.slice_size,
    roi=config.data.roi,
    cache=config.data.cache,
    skip_bad=config.data.skip_bad,
    include_unlabeled=config.data.extra_unlabeled,
  )


def _shares(text: str) -> list[float]:
  """Percentages that stand one behind the other."""
  try:
    return [float(share) for share in text.split(',')]
  except ValueError:
    raise ValueError(
      f'data.shares={text!r}: give three percentages, for example 70,10,20'
    ) from None


def choose_split(
  problem: methods.Problem,
  prepared: Prepared,
  workdir: pathlib.Path,
  resume: bool,
  transfer: Transfer | None = None,
) -> Split:
  """Decides (or reads) who is where, and saves it as `split.json`.

  A run that is resumed keeps its split; else it comes from `data.split`, or is
  made.

  Args:
    problem: the run's.
    prepared: the prepared data.
    workdir: the run's folder.
    resume: whether the workdir holds a checkpoint.
    transfer: the direction of a method that has one: what it makes of the
      split is what is saved.

  Raises:
    ValueError: a split that does not fit the scans or the run.
  """
  config, saved = problem.config, workdir / SPLIT
  adapt = transfer.split if transfer else lambda split: split
  split = None
  if config.data.split:
    split = adapt(load_split(config.data.split, prepared, transfer))
  if resume:
    kept = load_split(saved, prepared, transfer)
    if split is not None and split != kept:
      raise ValueError(
        f'{config.data.split} differs from {saved}, which this run was started'
        ' with: choose another --workdir'
      )
    split = kept
  if split is None:
    split = adapt(make_split(problem, prepared))
  splits.check(split, prepared.cases)
  splits.save(split, str(saved))
  return split


def make_split(problem: methods.Problem, prepared: Prepared) -> Split:
  """Who is where, by the config's seed, fold and shares.

  Raises:
    ValueError: too few patients.
  """
  config = problem.config
  return splits.make(
    prepared.cases,
    seed=config.data.split_seed,
    fold=config.data.fold,
    labeled_fraction=config.labeled_fraction,
    shares=_shares(config.data.shares),
    partly_labeled=_partly_labeled(problem, prepared),
  )


def load_split(
  path: str | os.PathLike, prepared: Prepared, transfer: Transfer | None
) -> Split:
  """Who was where in a run.

  Args:
    path: of a `split.json`.
    prepared: the prepared data.
    transfer: the direction of a method that has one.

  Raises:
    ValueError: the file is unreadable, or does not fit the scans.
  """
  # The target of a transfer needs no labelled training scan.
  bare = (transfer.target,) if transfer else ()
  return splits.load(str(path), prepared.cases, bare)


def _partly_labeled(problem: methods.Problem, prepared: Prepared) -> set[str]:
  """Modalities of own scans of which some carry no label.

  Of the archives, those without are the organisers' own test scans.
  """
  own = {m.name for m in problem.task.modalities if m.source == 'folder'}
  return {c.modality for c in prepared.cases if not c.labeled} & own


def phantom_folders(
  task: str, *, size: str, subjects: int, seed: int, cache: str
) -> dict[str, str]:
  """Writes a phantom into the cache (once); archive -> its folder."""
  name = f'phantom{phantom.VERSION}-{task}-{size}-{subjects}-{seed}'
  folder = preparation.cache_folder(cache) / name
  return phantom.write(task, folder, subjects=subjects, seed=seed, size=size)


def select(
  prepared: Prepared, split: Split, modalities: Sequence[str], part: str
) -> list[list[PreparedCase]]:
  """The cases of one part of the split, per modality."""
  by_name = {case.name: case for case in prepared.cases}
  return [[by_name[name] for name in split[m][part]] for m in modalities]


def present_classes(
  prepared: Prepared, split: Split, modalities: Sequence[str], num_classes: int
) -> np.ndarray:
  """`[K, C]` bool: classes in each modality's labelled training scans.

  Labels of other training scans are not looked at.
  """
  present = np.zeros((len(modalities), num_classes), bool)
  groups = select(prepared, split, modalities, 'labeled')
  for row, cases in zip(present, groups, strict=True):
    for case in cases:
      found = np.unique(prepared.labels(case))
      row[found[found != UNKNOWN]] = True
  return present


def with_less_drawn(
  prepared: Prepared, split: Split, problem: methods.Problem
) -> Prepared:
  """The scans, of whose training labels a part is taken as not drawn.

  By `data.drawn_share` and `data.drawn_every`: each class stays drawn in that
  share of its scans, in one at least, and the middle one of so many slices is.

  Raises:
    ValueError: a share outside (0, 1], or slices below 1.
  """
  config = problem.config.data
  share, every = config.drawn_share, config.drawn_every
  if not 0 < share <= 1:
    raise ValueError(f'data.drawn_share={share}: give a share above 0, up to 1')
  if every < 1:
    raise ValueError(f'data.drawn_every={every}: give 1 or more')
  changed: dict[str, PreparedCase] = {}
  groups = select(prepared, split, problem.names, 'labeled')
  for name, mask, cases in zip(
    problem.names, problem.labelable, groups, strict=True
  ):
    drawn: list[list[int]] = [[] for _ in cases]
    rng = np.random.default_rng([config.split_seed, zlib.crc32(name.encode())])
    for index in np.flatnonzero(mask)[1:].tolist():
      there = [at for at, c in enumerate(cases) if c.drawn_for(mask)[index]]
      count = max(1, round(share * len(there)))
      for at in rng.permutation(there)[:count]:
        drawn[at].append(index)
    for case, chosen in zip(cases, drawn, strict=True):
      changed[case.name] = _less_drawn(case, sorted(chosen), share, every)
  return prepared.with_cases(changed)


def _less_drawn(case, drawn, share, every):
  if share == 1 and every == 1:
    return case
  slices = np.arange(case.num_slices)
  middle = min(every // 2, case.num_slices // 2)
  skipped = (slices % every != middle) | np.isin(slices, case.undrawn)
  if not drawn:
    skipped[:] = True
  undrawn = np.flatnonzero(skipped).tolist()
  return dataclasses.replace(
    case,
    drawn=case.drawn if share == 1 else drawn,
    undrawn=undrawn,
    unknown=case.unknown + len(undrawn) * case.geometry['slice_size'] ** 2,
  )


def prototyped_classes(
  present: np.ndarray,
  prepared: Prepared,
  split: Split,
  problem: methods.Problem,
) -> np.ndarray | None:
  """See `Signals.prototyped`; None where label maps leave nothing open.

  Args:
    present: of `present_classes`.
    prepared: the prepared data.
    split: who is where.
    problem: of the network.

  Raises:
    ValueError: a class was drawn in no labelled training scan.
  """
  groups = select(prepared, split, problem.names, 'labeled')
  if not any(case.partly_drawn for cases in groups for case in cases):
    return None
  drawn = np.zeros_like(present)
  for row, mask, cases in zip(drawn, problem.labelable, groups, strict=True):
    for case in cases:
      row |= mask & case.drawn_for(mask)
  nowhere = np.flatnonzero(problem.labelable.any(0) & ~drawn.any(0))
  if lost := [problem.classes[i] for i in nowhere if i]:
    raise ValueError(
      f'{", ".join(lost)}: drawn in no labelled training scan of'
      f' {", ".join(problem.names)}, so nothing can be learnt of it: draw it in'
      ' one, choose another split (config.data.split, config.data.split_seed)'
      ' or leave it out of dataset.json'
    )
  out = present.copy()
  out[:, 0] &= drawn[:, 0]
  return out


def steps_per_epoch(
  prepared: Prepared,
  split: Split,
  modalities: Sequence[str],
  labelable: np.ndarray,
  batch_size: int,
) -> int:
  """Steps until the largest modality's unlabelled slices were all seen.

  Those that labels leave open count as such. A modality without any counts its
  labelled ones; shorter sets repeat. The same for every method, so that all
  train equally long.

  Args:
    prepared: the prepared data.
    split: who is where.
    modalities: that take part.
    labelable: `[K, C]` bool, classes that their labels can contain.
    batch_size: slices of a modality and step.
  """
  parts = (
    select(prepared, split, modalities, part)
    for part in ('unlabeled', 'labeled')
  )
  slices = []
  for mask, unlabeled, labeled in zip(labelable, *parts, strict=True):
    left = sum(len(case.open_slices(mask)) for case in labeled)
    left += sum(case.num_slices for case in unlabeled)
    slices.append(left or sum(case.num_slices for case in labeled))
  return -(-max(slices) // batch_size)
