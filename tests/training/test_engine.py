"""The loop: exact resume, the clock, divergence."""

import json
import os
import signal
from contextlib import contextmanager, nullcontext

import pytest
import torch
from small import small_config

import baselines
from harness.model.randomness import Draw
from harness.system.errors import Diverged, Interrupted, Preempted
from harness.system.processes import signals
from harness.training import checkpoint, engine
from harness.training.step import TrainStep, drop_labels
from harness.training.telemetry import WARMUP_STEPS, StepClock

METHODS = baselines.names()
CPU = torch.device("cpu")


class Stop(Exception):
    pass


def train(cfg, digits, folder, report=lambda line: None, prepare=lambda method: None, notes=None):
    folder.mkdir(exist_ok=True)
    method = baselines.build(cfg)
    prepare(method)
    note = (notes if notes is not None else []).append
    trained = engine.train(method, cfg, digits, folder, device=CPU, report=report, note=note)
    return method, trained


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(method, trained):
    return {**method.state_dict(), **{f"ema.{name}": value for name, value in trained.network.state_dict().items()}}


def assert_equal_bit_for_bit(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def stop_after(step):
    def report(line):
        if line["step"] == step:
            raise Stop

    return report


@pytest.mark.parametrize("name", METHODS)
def test_five_steps_and_five_more_equal_ten(name, digits, tmp_path):
    cfg = small_config(name, "steps=10", "log_every=1", "checkpoint_every=5")
    whole = weights(*train(cfg, digits, tmp_path / "whole"))
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path / "parts", stop_after(6))  # one step past the checkpoint: it is done again
    assert_equal_bit_for_bit(weights(*train(cfg, digits, tmp_path / "parts")), whole)
    logs = [lines(tmp_path / part / "metrics.jsonl") for part in ("whole", "parts")]
    assert [line["step"] for line in logs[1]] == list(range(1, 11))
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_what_is_observed_of_the_average_stands_in_the_log_and_changes_no_weight(digits, tmp_path):
    cfg = small_config("sddit", "steps=4", "log_every=2", "checkpoint_every=4")
    plain = train(cfg, digits, tmp_path / "plain")
    seen = []

    def observe(step, network):
        torch.randn(3)
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"denoiser_error": float(step)} if step == 4 else {}

    (tmp_path / "observed").mkdir()
    method = baselines.build(cfg)
    trained = engine.train(
        method, cfg, digits, tmp_path / "observed", device=CPU, report=lambda line: None, note=lambda text: None,
        observe=observe,
    )  # fmt: skip
    assert_equal_bit_for_bit(weights(method, trained), weights(*plain))
    assert_equal_bit_for_bit(seen[-1], trained.network.state_dict())
    assert [line.get("denoiser_error") for line in lines(tmp_path / "observed" / "metrics.jsonl")] == [None, 4.0]


def test_a_finished_run_trains_no_further(digits, tmp_path):
    cfg = small_config("dit")
    first = weights(*train(cfg, digits, tmp_path))
    lines = []
    assert_equal_bit_for_bit(weights(*train(cfg, digits, tmp_path, lines.append)), first)
    assert lines == []


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(digits, tmp_path):
    def run(seed, folder):
        return weights(*train(small_config("dit", f"seed={seed}"), digits, tmp_path / folder))

    one = run(1, "a")
    assert_equal_bit_for_bit(one, run(1, "b"))
    assert not torch.equal(one["network.readout.out.weight"], run(2, "c")["network.readout.out.weight"])


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, Preempted),
        (signal.SIGINT, Interrupted),
        (signal.SIGHUP, Preempted),
        (signal.SIGUSR1, Preempted),
        (signal.SIGUSR2, Preempted),
    ],
)
def test_a_signal_finishes_the_step_saves_and_the_same_command_continues(number, error, digits, tmp_path):
    cfg = small_config("dit", "steps=6", "log_every=1", "checkpoint_every=100")

    def interrupt(line):
        if line["step"] == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(error, match="at step 3: saved"):
        train(cfg, digits, tmp_path / "parts", interrupt)
    notes = []
    continued = weights(*train(cfg, digits, tmp_path / "parts", notes=notes))
    assert notes == ["continuing from the checkpoint of step 3."]
    assert_equal_bit_for_bit(continued, weights(*train(cfg, digits, tmp_path / "whole")))


def test_a_run_that_began_uncompiled_goes_on_so_where_a_later_rule_would_compile_it(digits, tmp_path, monkeypatch):
    cfg = small_config("dit", "steps=4", "log_every=1", "checkpoint_every=2", "compile=auto")
    whole = weights(*train(cfg, digits, tmp_path / "whole"))
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path / "parts", stop_after(3))
    monkeypatch.setattr("harness.model.compiling.WORTH_COMPILING", 0)
    method, trained = train(cfg, digits, tmp_path / "parts")
    assert (trained.compiled, trained.notes) == (False, ["not compiled: the run began so"])
    assert_equal_bit_for_bit(weights(method, trained), whole)


def test_a_second_sigterm_does_not_cut_off_the_save(digits, tmp_path):
    """Schedulers signal a process itself and through the one that started it."""

    def interrupt(line):
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="at step 3: saved"):
        train(small_config("dit", "steps=6", "log_every=1", "checkpoint_every=100"), digits, tmp_path, interrupt)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000003"]


def test_a_run_whose_checkpoints_were_all_damaged_starts_again_and_can_be_continued(digits, tmp_path):
    cfg = small_config("dit", "steps=8", "log_every=2", "checkpoint_every=2")
    whole = weights(*train(cfg, digits, tmp_path))
    for path in tmp_path.glob("checkpoints/*/method.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path, stop_after(6))
    notes = []
    assert_equal_bit_for_bit(weights(*train(cfg, digits, tmp_path, notes=notes)), whole)
    assert notes == ["continuing from the checkpoint of step 4."]


def test_a_signal_during_the_last_save_ends_the_run_after_it(digits, tmp_path, monkeypatch):
    """Evaluation may take longer than a scheduler waits; the same command does it."""
    sync, sent = checkpoint.sync, []

    def interrupted(path):
        if "step-000000004" in str(path) and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", interrupted)
    with pytest.raises(Preempted, match="at step 4: saved"):
        train(small_config("dit"), digits, tmp_path)
    assert train(small_config("dit"), digits, tmp_path)[1].network is not None


def test_a_loss_that_is_not_finite_stops_at_its_step_and_spoils_no_checkpoint(digits, tmp_path):
    cfg = small_config("dit", "steps=8", "log_every=4", "checkpoint_every=4")

    def poison(method):
        forward, calls = method.forward, []

        def poisoned(*args):
            calls.append(1)
            losses = forward(*args)
            return {"loss": losses["loss"] * float("nan")} if len(calls) == 6 else losses

        method.forward = poisoned

    with pytest.raises(Diverged, match="the loss is nan at step 6"):
        train(cfg, digits, tmp_path, prepare=poison)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000004"]
    # The checkpoint of step 4 is written beside the steps, so its event may come after that of step 6.
    events = [e | {"time": ""} for e in lines(tmp_path / "events.jsonl") if e["event"] != "checkpoint"]
    assert events[-1] == {"time": "", "event": "divergence", "step": 6, "loss": "nan"}


def test_weights_that_are_not_finite_are_never_saved(digits, tmp_path):
    """The loss of a step may be finite and its gradient not."""

    def poison(method):
        def infinite(parameter):
            parameter.grad.fill_(float("inf"))

        method.network.readout.out.weight.register_post_accumulate_grad_hook(infinite)

    with pytest.raises(Diverged, match="the weights are not finite after step 1"):
        train(small_config("dit", "checkpoint_every=1"), digits, tmp_path, prepare=poison)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("spoils", [None, "buffer", "moment"])
def test_a_mask_that_holds_infinity_by_design_is_saved_and_one_that_came_to_is_not(spoils, digits, tmp_path):
    """A plug-in registers its attention mask; a buffer that was finite, or a moment of AdamW, is another matter."""

    def prepare(method):
        method.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        method.register_buffer("mean", torch.zeros(3))
        if spoils == "buffer":
            method.after_step = lambda progress: {"mean": method.mean.fill_(float("nan"))[0]}

    cfg = small_config("dit", "steps=2", "checkpoint_every=1")
    if spoils is None:
        method, _ = train(cfg, digits, tmp_path, prepare=prepare)
        assert method.mask[0, 1] == -float("inf")
        assert len(list((tmp_path / "checkpoints").iterdir())) == 2
        train(cfg, digits, tmp_path, prepare=prepare)  # as it reads them again
        return
    with pytest.MonkeyPatch.context() as patch:
        if spoils == "moment":
            real = torch.optim.AdamW.step

            def step(self, *given):
                real(self, *given)
                next(iter(self.state.values()))["exp_avg"].fill_(float("inf"))

            patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Diverged, match="the weights are not finite after step 1"):
            train(cfg, digits, tmp_path, prepare=prepare)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("missing", ["steps_per_sec", "peak_memory_bytes", "timed_steps"])
def test_a_line_of_the_log_without_what_is_counted_with_is_left_out_and_ends_no_run(missing, digits, tmp_path):
    cfg = small_config("dit", "steps=4", "log_every=1", "checkpoint_every=2")
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path, stop_after(3))
    first, *others = lines(tmp_path / "metrics.jsonl")
    del first[missing]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (first, *others)))
    notes = []
    train(cfg, digits, tmp_path, notes=notes)
    assert "metrics.jsonl had 1 damaged line(s), left out." in notes
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [2, 3, 4]


def test_a_line_of_the_log_averages_the_same_steps_however_the_run_was_cut(digits, tmp_path):
    cfg = small_config("dit", "steps=12", "log_every=5", "checkpoint_every=3")
    train(cfg, digits, tmp_path / "whole")
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path / "parts", stop_after(10))
    train(cfg, digits, tmp_path / "parts")
    logs = [lines(tmp_path / part / "metrics.jsonl") for part in ("whole", "parts")]
    assert [line["step"] for line in logs[0]] == [3, 5, 6, 9, 10, 12]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


@contextmanager
def preempted_after(step):
    """The inbox as a signal leaves it that comes during `step`."""
    taken = TrainStep.__call__
    inbox = signals.Inbox()

    def take(self, batch, index, **asked):
        if index + 1 == step:
            inbox.received = signal.SIGTERM
        return taken(self, batch, index, **asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", take)
        patch.setattr(engine.signals, "deferred", lambda: nullcontext(inbox))
        yield


@pytest.mark.parametrize(
    ("stops", "killed"), [([1], 10), ([4], 5), ([5], 10), ([6, 7], 10), ([9], None), ([3, 11], None)]
)
def test_the_log_of_a_run_that_was_stopped_is_that_of_one_that_was_not(stops, killed, uncut, digits, tmp_path):
    """Within a window, at a line, at a checkpoint, twice in one window, within the last one; then killed once."""
    cfg, whole = uncut
    for stop in stops:
        with preempted_after(stop), pytest.raises(Preempted, match=f"at step {stop}: saved"):
            train(cfg, digits, tmp_path)
    if killed:
        with pytest.raises(Stop):
            train(cfg, digits, tmp_path, stop_after(killed))
    notes = []
    train(cfg, digits, tmp_path, notes=notes)
    assert not any("lost" in note for note in notes)
    timed = ("steps_per_sec", "images_per_sec", "data_wait_share", "timed_steps", "timed_seconds", "mfu")
    found = lines(tmp_path / "metrics.jsonl")
    kept = [[{k: v for k, v in line.items() if k not in (*timed, "peak_memory_bytes")} for line in log]
            for log in (whole, found)]  # fmt: skip
    assert kept[0] == kept[1]


@pytest.fixture(scope="module")
def uncut(digits, tmp_path_factory):
    cfg = small_config("sddit", "steps=12", "log_every=5", "checkpoint_every=9")
    folder = tmp_path_factory.mktemp("uncut")
    train(cfg, digits, folder)
    log = lines(folder / "metrics.jsonl")
    assert [line["step"] for line in log] == [5, 9, 10, 12]
    return cfg, log


def test_a_torn_line_of_the_log_is_dropped_and_said_so(digits, tmp_path):
    cfg = small_config("dit", "steps=4", "log_every=1", "checkpoint_every=2")
    with pytest.raises(Stop):
        train(cfg, digits, tmp_path, stop_after(3))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    notes = []
    train(cfg, digits, tmp_path, notes=notes)
    assert "metrics.jsonl had 1 damaged line(s), left out." in notes
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_labels_are_dropped_at_their_rate_and_only_to_no_label():
    torch.manual_seed(0)
    labels = torch.zeros(20_000, dtype=torch.long)
    labels = drop_labels(labels, 0.1, Draw.all_of(labels), null_label=10)
    assert set(labels.tolist()) == {0, 10}
    assert (labels == 10).float().mean() == pytest.approx(0.1, abs=0.01)


def test_the_clock_counts_neither_warm_up_nor_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = StepClock(CPU)
    for step in range(WARMUP_STEPS + 4):
        now[0] += 100 if step < WARMUP_STEPS else 2
        with clock.waiting_for_data():
            now[0] += 1
        clock.step_done()
        if step == WARMUP_STEPS + 1:
            with clock.paused():
                now[0] += 1000  # a checkpoint, an evaluation
    with clock.paused():
        window = clock.read()
    assert window.steps == 4
    assert window.seconds == 12
    assert window.steps_per_sec == pytest.approx(1 / 3)
    assert window.data_wait_share == pytest.approx(1 / 3)


def test_a_run_of_warm_up_alone_has_no_speed(digits, tmp_path):
    assert train(small_config("dit"), digits, tmp_path)[1].speed.steps_per_sec is None


def test_the_learning_rate_grows_over_the_warm_up_and_falls_over_the_cooldown(digits, tmp_path):
    cfg = small_config("dit", "steps=8", "log_every=1", "warmup=2", "cooldown=4", "learning_rate=0.004")
    train(cfg, digits, tmp_path)
    rates = [line["lr"] for line in lines(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.002, 0.004, 0.004, 0.004, 0.004, 0.003, 0.002, 0.001])
