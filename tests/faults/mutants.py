"""Seeded defects: what a careless change would look like, and the one test that must catch it.

``old`` must stand in the file exactly once: a mutant that no longer fits is a test that no longer
tests. A checkpoint written straight to its final name is no mutant: its manifest, written last and
holding all hashes, makes half a folder no checkpoint, whatever its name. Archives (bare
``extractall``) and report templates (no escaping) come with those parts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``file`` below src/segkit; ``test`` as pytest names it, below tests/."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = [
    Mutant(
        "files are written straight to their final name",
        "whole_files.py",
        "            fresh.replace(path)\n            sync_folder(path.parent)\n",
        "            path.write_bytes(data)\n",
        "engine/test_record.py",
    ),
    Mutant(
        "dropout draws from a generator that no resume restores",
        "engine/loop.py",
        '        torch.manual_seed(integer(self.settings.seed, "step", stage, step, *own))\n',
        "",
        "engine/test_resume.py::test_a_planned_stop_at_every_step",
    ),
    Mutant(
        "a checkpoint is not read back before it counts",
        "engine/checkpoint.py",
        "    if payload.hash_of(path) != sha256:\n",
        "    if not sha256:\n",
        "engine/test_checkpoint.py::test_what_the_disk_altered_is_noticed_before_it_counts",
    ),
    Mutant(
        "the old checkpoint goes before the new one is there",
        "engine/saving.py",
        "        self._run.settle()\n",
        "        self._run.settle()\n"
        "            for old in checkpoint.steps(self._run.checkpoints):\n"
        "                checkpoint._remove(old)\n",
        "faults/test_disk.py::test_a_run_goes_on_from_before_the_full_disk",
    ),
    Mutant(
        "what is written beside the training is what is trained",
        "engine/saving.py",
        "            self._task = Task(partial(self._save, taken or states, step, stage))\n",
        "            self._task = Task(partial(self._save, states, step, stage))\n",
        "engine/test_background.py::test_what_comes_after_does_not_reach_the_file",
    ),
    Mutant(
        "a failed save is noticed at the next one",
        "engine/loop.py",
        "                    saving.check()\n",
        "",
        "engine/test_background.py::test_a_failure_is_raised_before_the_next_update",
    ),
    Mutant(
        "a resumed run begins its average anew",
        "engine/loop.py",
        "                average.resume(point)\n",
        "                pass\n",
        "engine/test_average.py::test_a_resumed_run_has_the_same_average",
    ),
    Mutant(
        "the learning rate is one step ahead",
        "engine/loop.py",
        "        rate = self.plan.learning_rate(step)\n",
        "        rate = self.plan.learning_rate(step + 1)\n",
        "engine/test_loop.py::test_the_rate_of_every_step_is_the_formula",
    ),
    Mutant(
        "the order of an epoch comes from the global generator",
        "data/loader.py",
        '    order = generator(seed, "order", stage, epoch).permutation(count)\n',
        "    order = np.random.permutation(count)\n",
        "data/test_loader.py::test_a_golden_order",
    ),
    Mutant(
        "augmentations draw from the global generator",
        "data/loader.py",
        '    return integer(seed, "augment", stage, epoch, index)\n',
        "    return int(np.random.randint(2**31))\n",
        "data/test_loader.py::test_workers_and_prefetch_change_no_bit",
    ),
    Mutant(
        "batch norm is frozen once and thaws at the next train()",
        "models/segmenter.py",
        '        super().train(mode)\n        if self.batch_norm_mode != "train":\n',
        "        super().train(mode)\n        if False:\n",
        "models/test_segmenter.py::test_the_freeze_survives",
    ),
    Mutant(
        "the last samples of an evaluation are repeated to fill the ranks",
        "data/loader.py",
        "        range(rank, len(dataset), world),\n",
        "        [i % len(dataset) for i in range(rank, len(dataset) + world - 1, world)],\n",
        "data/test_loader.py::test_evaluation_sees_every_sample_once",
    ),
    Mutant(
        "the confusion matrix counts in 8 bits",
        "metrics/confusion.py",
        "        truth = label.to(self._counts.device, torch.int64).flatten()\n"
        "        found = prediction.to(self._counts.device, torch.int64).flatten()\n",
        "        truth = label.to(self._counts.device, torch.uint8).flatten()\n"
        "        found = prediction.to(self._counts.device, torch.uint8).flatten()\n",
        "metrics/test_confusion.py::test_counts_are_the_oracles",
    ),
    Mutant(
        "a step that is not finite is noticed after its update",
        "engine/loop.py",
        "        if bool(self._halted):\n            return False\n        self.optimizer.step()\n",
        "        self.optimizer.step()\n        if bool(self._halted):\n            return False\n",
        "engine/test_loop.py::test_a_step_that_is_not_finite_stops_before_its_update",
    ),
    Mutant(
        "a refused weights file is read again without safety",
        "models/weight_files.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "faults/test_security.py",
    ),
    Mutant(
        "an interruption ends with 0",
        "errors.py",
        "        self.code = ExitCode.SIGINT if",
        "        self.code = ExitCode.OK if",
        "engine/test_signals.py::test_one_signal_saves_and_says_so",
    ),
    Mutant(
        "of accumulated gradients only the last part counts",
        "engine/loop.py",
        "                scores = self._forward(images)\n",
        "                self.optimizer.zero_grad(set_to_none=True)\n"
        "                scores = self._forward(images)\n",
        "engine/test_loop.py::test_accumulation_equals_the_whole_batch_without_batch_statistics",
    ),
    Mutant(
        "the hash of a payload is not compared",
        "engine/checkpoint.py",
        '    if digest(data) != claim.get("sha256"):\n',
        "    if not claim:\n",
        "engine/test_checkpoint.py::test_every_flipped_bit_is_noticed",
    ),
    Mutant(
        "bad images are skipped in an evaluation",
        "data/loader.py",
        '        raise _named(error, dataset.ids[index], "reading") from error\n',
        "        return np.zeros((33, 33, 3), np.uint8), np.full((33, 33), 255, np.uint8)\n",
        "data/test_loader.py::test_faults_of_samples_arrive_named",
    ),
    Mutant(
        "every rank divides by its own pixels",
        "engine/loop.py",
        "        normaliser = {name: self.team.sum(count) for name, count in normaliser.items()}\n",
        "",
        "faults/test_ranks.py::test_two_ranks_train_what_one_trains",
    ),
    Mutant(
        "ranks average their gradients",
        "engine/team.py",
        "done.value()[0])",
        "done.value()[0] / 2)",
        "faults/test_ranks.py::test_two_ranks_train_what_one_trains",
    ),
    Mutant(
        "the lost connection is the headline, not the cause",
        "engine/watch.py",
        "                return None if own else _raised(fault)\n",
        "                return None\n",
        "faults/test_ranks.py::test_the_bad_image_is_the_headline",
    ),
    Mutant(
        "nobody looks whether a rank hangs",
        "engine/watch.py",
        "        if hung:\n",
        "        if hung and not hung:\n",
        "faults/test_ranks.py::test_a_hanging_rank_is_named",
    ),
    Mutant(
        "the lock is not taken",
        "lock.py",
        "            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "faults/test_disk.py::test_a_second_run_in_one_folder_is_refused",
    ),
    Mutant(
        "class paths lead anywhere",
        "instantiate.py",
        "(inside(home, _trusted) if trusted else home == module and plays(found, role))",
        "home",
        "test_instantiate.py",
    ),
]
