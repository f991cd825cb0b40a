"""Progress without a terminal: a line a minute, by a clock that the test moves."""

import sys

import pytest

from zoo.progress import duration, progress


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("zoo.progress.monotonic", clock)
    monkeypatch.delenv("RPG_NO_PROGRESS", raising=False)
    return clock


def test_a_line_a_minute_and_one_at_the_end(clock, capsys):
    def lines():
        return capsys.readouterr().err.splitlines()

    with progress("training digits", 15_000) as bar:
        assert lines() == []
        for step in range(1, 1501):
            clock.now += 0.25
            bar.advance(1, f"loss {1 / step:.3f}" if step % 10 == 0 else "")
            if step == 239:
                assert lines() == []
            if step == 240:
                assert lines() == ["training digits: 240 of 15,000 (1%), loss 0.004, 4.0/s, 1.02 h left"]
            if step == 480:
                assert lines() == ["training digits: 480 of 15,000 (3%), loss 0.002, 4.0/s, 1.01 h left"]
            if step == 1490:
                assert [line.split(": ")[1][:5] for line in lines()] == ["720 o", "960 o", "1,200", "1,440"]
    assert lines() == ["training digits: 1,500 of 15,000 (10%), loss 0.001, 4.0/s, 6.25 min in all"]


def test_quicker_work_has_a_line_every_five_percent(clock, capsys):
    with progress("training digits", 1500) as bar:
        for step in range(1, 1501):
            clock.now += 0.25
            bar.advance(1, f"loss {1 / step:.3f}")
    first, *others, last, end = capsys.readouterr().err.splitlines()
    assert first == "training digits: 75 of 1,500 (5%), loss 0.013, 4.0/s, 5.94 min left"
    assert len(others) == 18
    assert last.startswith("training digits: 1,500 of 1,500 (100%), loss 0.001, 4.0/s, 0 s left")
    assert end.endswith("6.25 min in all")


def test_quick_work_has_no_lines_but_the_last(clock, capsys):
    """And none more often than every five seconds."""
    with progress("scoring digits", 100) as bar:
        for _ in range(100):
            clock.now += 0.04
            bar.advance()
    with progress("scoring more", 100) as bar:
        for _ in range(100):
            clock.now += 0.2
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scoring digits: 100 of 100 (100%), 25.0/s, 4 s in all"
    assert [line.split(": ")[1][:3] for line in lines[1:]] == ["25 ", "50 ", "75 ", "100", "100"]


def test_slow_steps_have_a_line_each(clock, capsys):
    with progress("scoring llama", 10) as bar:
        for name in ("a", "b"):
            clock.now += 1800
            bar.advance(1, name)
    assert capsys.readouterr().err.splitlines() == [
        "scoring llama: 1 of 10 (10%), a, 1800.0 s each, 4.5 h left",
        "scoring llama: 2 of 10 (20%), b, 1800.0 s each, 4 h left",
        "scoring llama: 2 of 10 (20%), b, 1800.0 s each, 1 h in all",
    ]


def test_what_was_done_before_counts_but_says_nothing_about_the_speed(clock, capsys):
    with progress("training digits", 1000) as bar:
        bar.skip(700)
        clock.now += 60
        bar.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "training digits: 800 of 1,000 (80%), 1.7/s, 2 min left",
        "training digits: 800 of 1,000 (80%), 1.7/s, 1 min in all",
    ]


def test_where_nothing_is_left_to_do_nothing_is_said(clock, capsys):
    with progress("scoring digits", 50) as bar:
        clock.now += 90
        bar.skip(50)
    with progress("scoring nothing", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_no_last_line_comes_after_an_error(clock, capsys):
    def broken():
        with progress("collecting digits", 50) as bar:
            bar.advance(10)
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        broken()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("way", ["environment", "argument"])
def test_it_can_be_turned_off(clock, capsys, monkeypatch, way):
    if way == "environment":
        monkeypatch.setenv("RPG_NO_PROGRESS", "1")
    with progress("training digits", 10, show=way == "environment") as bar:
        clock.now += 100
        bar.skip(1)
        bar.advance(9)
    assert capsys.readouterr() == ("", "")


def test_names_of_others_are_escaped(clock, capsys):
    with progress("scoring \x1b[31mred", 1) as bar:
        bar.advance(1, "a\nb")
    assert capsys.readouterr().err == "scoring \\x1b[31mred: 1 of 1 (100%), a\\nb, 0 s in all\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("RPG_NO_PROGRESS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with progress("training [red]digits", 10) as bar:
        bar.skip(4)
        bar.advance(3, "loss [0.5]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "training [red]digits" in err  # no markup of rich's
    assert "7/10" in err
    assert "loss [0.5]" in err


def test_a_worker_on_a_terminal_writes_lines(clock, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("zoo.progress.parent_process", object)
    with progress("training digits", 1) as bar:
        bar.advance()
    assert capsys.readouterr().err == "training digits: 1 of 1 (100%), 0 s in all\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0314159, "0.0314 s"),
        (3.6, "3.6 s"),
        (60, "1 min"),
        (1800, "30 min"),
        (3600, "1 h"),
        (444_441.6, "123 h"),
        (3600 * 999.4, "999 h"),
        (3600 * 999.6, "1,000 h"),
        (3600 * 12_345.6, "12,346 h"),
    ],
)
def test_times_have_their_unit(seconds, text):
    assert duration(seconds) == text
