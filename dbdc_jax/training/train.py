"""A run from its config to its results.

`train(config, workdir)` prepares the data, trains (`loop.py`),
tests the best checkpoint and writes every output. A method that trains one
network per modality (`joint=False`) goes through the same loop once per
modality. Every process of a run calls it; the lead process alone writes.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import os
import pathlib
import sys
from typing import Any

import jax
import ml_collections
import numpy as np

from configs import presets
from data.cache.prepared import Prepared, PreparedCase, summary
from data.split import Split
from dbdc_jax import methods
from dbdc_jax.evaluation import components, pictures, scoring
from dbdc_jax.inference import prepared_cases, recognition
from dbdc_jax.methods import Problem
from dbdc_jax.methods.common import cost
from dbdc_jax.methods.common.transfer import Transfer
from dbdc_jax.runtime import determinism, parallel
from dbdc_jax.training import banner, loop, scans, warm_start
from dbdc_jax.workdir import checkpoint, run_folder, run_record
from dbdc_jax.workdir.metric_writer import MetricWriter, read_epochs
from dbdc_jax.workdir.train_state import TrainState, init_state


@functools.lru_cache(maxsize=4)
def _built(config: ml_collections.FrozenConfigDict) -> methods.Method:
  """The method of a config; networks of one config share a program."""
  return methods.build(config)


def _method(whole: Problem, part: Problem, joint: bool) -> methods.Method:
  """The method of one of a run's networks.

  Of a run's networks for one modality each, all whose labels may name the same
  classes are the same but for what they learn.

  Args:
    whole: the run's problem.
    part: the network's, one of `whole.networks(joint)`.
    joint: whether one network takes all modalities.
  """
  if not joint:
    alike = (whole.labelable == part.labelable).all(1)
    part = whole.of([whole.names[int(np.argmax(alike))]])
  return _built(part.config)


def _train(
  run: loop.TrainingRun, state: TrainState
) -> list[tuple[int, TrainState]]:
  """Trains, or goes on, or does neither.

  Returns:
    Step and state of the best checkpoint, and of the last one if it is asked
    for and another.
  """
  config, workdir = run.config, run.workdir
  with checkpoint.Checkpoints(workdir) as store:
    latest = store.latest(state)
    if latest is not None:
      state = parallel.place(latest[1])
    elif config.eval_only:
      raise ValueError(
        f'eval_only: {workdir} holds no checkpoint; train there first'
      )
    elif config.init_from:
      state = warm_start.start(run, state)
    # Kept apart from the state, which the first step uses up.
    like = jax.eval_shape(lambda: state)
    first = int(state.step)
    if not config.eval_only and first < run.total_steps:
      # It was of the best checkpoint of before.
      chosen = workdir / run_folder.COMPONENTS
      parallel.on_lead(lambda: chosen.unlink(missing_ok=True))
      with MetricWriter(
        workdir,
        first_step=first,
        lead=parallel.is_lead(),
        total_steps=run.total_steps,
      ) as writer:
        if first:
          writer.line(f'resuming after step {first}')
        loop.fit(run, state, store, writer)
    found = [store.best(like)]
    if config.evaluation.last:
      found.append(store.latest(like))
  tested = {pair[0]: pair[1] for pair in found if pair is not None}
  if not tested:
    raise ValueError(f'{workdir}: no checkpoint is left; train there again')
  return [(step, parallel.place(state)) for step, state in tested.items()]


def _test(run: loop.TrainingRun, state: TrainState) -> dict[str, Any]:
  """Test cases' scores, whose components are kept, the training's seconds.

  Writes the pictures.
  """
  rows = read_epochs(run.workdir)
  pictures.progress(rows, run.workdir / 'progress.png', run.modalities)
  segmented = run.scans(state)
  on_case = prepared_cases.overlay_writer(run.workdir / 'overlays', segmented)
  cases, chosen = _scored(run, segmented, on_case)
  run_record.write_json(run.workdir / run_folder.COMPONENTS, chosen)
  fit = {name: _fit(run, k) for k, name in enumerate(run.modalities)}
  run_record.write_json(run.workdir / run_folder.LOOKS, fit)
  seconds = sum(row['seconds'] for row in rows)
  return {'cases': cases, 'components': chosen, 'seconds': seconds}


def _scored(
  run: loop.TrainingRun,
  segmented: prepared_cases.Scans,
  on_case: Callable[[PreparedCase, np.ndarray, np.ndarray], None],
) -> tuple[list[dict[str, Any]], dict[str, components.Choice]]:
  """The test cases' scores, and the choice of components in them."""
  chosen = _chosen_components(run, segmented)
  tested = _tested_cases(run)
  return prepared_cases.test_cases(segmented, tested, chosen, on_case), chosen


def _chosen_components(
  run: loop.TrainingRun, segmented: prepared_cases.Scans
) -> dict[str, components.Choice]:
  """Modality -> the choice of the validation scans that select for it.

  Those of a transfer that select the checkpoint select for both modalities: no
  label of a target that is never seen decides.
  """
  cases, transfer = run.cases('validation'), run.method.traits.transfer
  if transfer is None:
    return prepared_cases.choose_components(segmented, cases)
  asked = [
    group if index in run.selected else [] for index, group in enumerate(cases)
  ]
  found = prepared_cases.choose_components(segmented, asked)
  return dict.fromkeys(run.modalities, found[transfer.selected_on])


def _tested_cases(run: loop.TrainingRun) -> list[list[PreparedCase]]:
  """Test cases per modality; of a transfer, the target's alone."""
  transfer = run.method.traits.transfer
  return [
    cases if transfer is None or name == transfer.target else []
    for name, cases in zip(run.modalities, run.cases('test'), strict=True)
  ]


def _fit(run: loop.TrainingRun, index: int) -> dict[str, Any]:
  """What a modality's scans look like; those of its test are not looked at."""
  parts = ('labeled', 'unlabeled', 'validation')
  return recognition.calibrate(
    case for part in parts for case in run.cases(part)[index]
  )


def _train_one(
  run: loop.TrainingRun,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Trains (or resumes, or only tests) one network and tests its best.

  Returns:
    The test cases' scores, and facts about the run.
  """
  if parallel.is_lead():
    run.workdir.mkdir(parents=True, exist_ok=True)
  state = init_state(run.method, run.problem)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  if parallel.is_lead():
    print(banner.text(run, state, count), flush=True)
  (best, state), *others = _train(run, state)
  tested = parallel.from_lead(lambda: _test(run, state))
  cases, config = tested['cases'], run.config
  if config.evaluation.last:
    last, scores = cases, ('native', 'prepared', 'beside')
    if others:
      segmented = run.scans(others[0][1])
      last, _ = parallel.from_lead(
        lambda: _scored(run, segmented, lambda *_: None)
      )
    cases = [
      {**case, 'last': {key: of_last[key] for key in scores}}
      for case, of_last in zip(cases, last, strict=True)
    ]
  patch = config.augment.patch_size
  side = config.data.slice_size if run.method.traits.volumes else patch
  facts = {
    'parameters': count,
    # Of predicting one training patch.
    'macs': cost.prediction_macs(run.method, state.params, state.memory, side),
    'best_step': best,
    'train_seconds': tested['seconds'],
    'steps': run.total_steps,
    'components': tested['components'],
  }
  return cases, facts


def train(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
  """Prepares, trains and tests; the whole of a run.

  Calling it again on the same workdir resumes where it stands.

  Args:
    config: from a file in `configs/`.
    workdir: where everything is written.
    on_epoch: called with each epoch's metrics.

  Returns:
    The contents of `results.json`.

  Raises:
    data.preparation.BadScans: scans that cannot be used, all in one table.
    ValueError: settings that do not fit each other, the data or the workdir.
    NonFiniteLossError: the loss stopped being a number.
    OSError: the disk is full, or a folder cannot be written.
  """
  folder = pathlib.Path(workdir).absolute()
  # Everything that can be refused is refused before anything is written.
  if open_ := presets.left_open(config):
    raise ValueError(
      f'{", ".join(open_)}: left open by preset=auto; the main command chooses'
      ' them, a program does by dbdc_jax.sizing.settle(config, workdir)'
    )
  traits = methods.traits(config)
  if traits.transfer:
    config = traits.transfer.settle(config)
  problem = methods.resolve(config)
  recipe = _built(problem.networks(traits.joint)[0].config).recipe
  parallel.check_batch(recipe.batch_size, traits.multiple, recipe.batch_field)
  if config.deterministic:
    determinism.check()
  sources = dict.fromkeys(m.source for m in problem.task.modalities)
  roots = [root for s in sources if (root := config.data[s])]
  parallel.from_lead(lambda: run_record.check_place(folder, roots))
  notes = parallel.from_lead(
    lambda: run_record.check_resumable(folder, problem)
  )
  added = parallel.from_lead(
    lambda: warm_start.added(problem, folder, traits.joint)
  )
  with contextlib.ExitStack() as stack:
    # Entered by the lead; the others hear of a refusal.
    owned = run_record.owned(folder)
    parallel.from_lead(lambda: stack.enter_context(owned))
    for note in notes:
      print(note, file=sys.stderr, flush=True)
    return _run_all(problem, folder, added, traits, on_epoch)


def _prepare(
  problem: Problem,
  folder: pathlib.Path,
  added: Sequence[str],
  transfer: Transfer | None,
) -> tuple[Prepared, Split]:
  """Data and split, the same on all processes, and the run's record."""
  prepared = parallel.lead_first(lambda: scans.load(problem))
  if parallel.is_lead():
    print(summary(prepared), flush=True)
  parallel.agree('prepared data', prepared.fingerprint)

  def decide():
    resume = run_record.started(folder)
    split = scans.choose_split(problem, prepared, folder, resume, transfer)
    if resume:
      run_record.check_data(folder, prepared.fingerprint)
    run_record.save(folder, problem, prepared, added)
    return split

  return prepared, parallel.from_lead(decide)


def _run_all(
  problem: Problem,
  folder: pathlib.Path,
  added: Sequence[str],
  traits: methods.Traits,
  on_epoch: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
  """Everything that writes into the workdir."""
  config, names, transfer = problem.config, problem.names, traits.transfer
  prepared, split = _prepare(problem, folder, added, transfer)
  # Over all modalities, also where each has a network of its own.
  steps = scans.steps_per_epoch(
    prepared, split, names, problem.labelable, config.batch_size
  )
  prepared = scans.with_less_drawn(prepared, split, problem)
  cases, facts = [], {}
  for part in problem.networks(traits.joint):
    own = folder if traits.joint else folder / part.names[0]
    method = _method(problem, part, traits.joint)
    run = loop.TrainingRun(
      part, own, prepared, split, method, added, steps, on_epoch
    )
    scores, facts[','.join(part.names)] = _train_one(run)
    cases += scores
  whole = transfer and transfer.full
  fraction = 1.0 if whole else config.labeled_fraction
  info = {
    'method': config.method,
    'recipe': config.recipe,
    'task': problem.task.name,
    'seed': config.seed,
    'split_seed': config.data.split_seed,
    # A split that was given says itself who is labelled.
    'labeled_fraction': None if config.data.split else fraction,
    'components': config.evaluation.components,
    'labeled_scans': {name: len(split[name]['labeled']) for name in names},
    'epochs': config.epochs,
    'devices': parallel.describe(),
    'networks': facts,
  }
  if transfer:
    info |= {'source': transfer.source, 'target': transfer.target}
  tested = (transfer.target,) if transfer else names
  results = scoring.summarize(cases, problem.classes, tested, info)
  if parallel.is_lead():
    scoring.write_results(results, folder)
    print(scoring.table(results), flush=True)
  return results
