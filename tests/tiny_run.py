"""A whole run of a small network in this process."""

from small import small_config

from harness.runs import training_run

EVALUATED = ("num_images=60", "sampling.num_steps=3")


class Silent:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def stage(self, name, total, unit="images"):
        self.notes.append(name)

    def metrics(self, line):
        pass

    def advance(self, done):
        pass


def run(out, *assignments, with_evaluation=False, force=False):
    progress = Silent()
    cfg = small_config("dit", *assignments)
    result = training_run.run(
        cfg, out, command="harness run dit-tiny", progress=progress, with_evaluation=with_evaluation, force=force
    )
    return result, out / "dit-tiny" / cfg.run_id, progress.notes
