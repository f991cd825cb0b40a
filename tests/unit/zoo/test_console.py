"""What the library logs, as the command lines show it."""

import logging
import subprocess
import sys
from contextlib import suppress

import pytest

from zoo.console import LOGGERS, run_cli, shown_log


@pytest.mark.parametrize("package", LOGGERS)
def test_a_log_line_is_shown_as_it_is_said(package, capsys):
    log = logging.getLogger(f"{package}.somewhere")
    with shown_log():
        log.info("uploading %d files", 3)
        log.warning("--out is ignored:\nthe name \x1b[31mis odd")
        log.debug("not this")
        logging.getLogger("timm").warning("nor this")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "uploading 3 files\n--out is ignored:\nthe name \\x1b[31mis odd\n")


def test_only_the_first_of_several_processes_shows_it(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with shown_log():
        logging.getLogger("zoo.somewhere").warning("training")
    assert capsys.readouterr() == ("", "")


def test_a_library_that_logs_at_the_root_does_not_repeat_it(capsys):
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with shown_log():
            logging.getLogger("zoo.somewhere").warning("once")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err == "once\n"


def test_a_level_of_its_own_and_afterwards_all_is_as_before(capsys):
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(log.level, log.propagate, list(log.handlers)) for log in loggers]
    with suppress(ValueError), shown_log(logging.WARNING):
        loggers[0].info("not this")
        loggers[0].warning("this")
        raise ValueError
    assert capsys.readouterr().err == "this\n"
    assert [(log.level, log.propagate, list(log.handlers)) for log in loggers] == before


def test_commands_show_it(capsys, monkeypatch):
    def command(arguments, **_):
        logging.getLogger("rpg.demo").info(f"[1/4] {arguments[0]}")

    monkeypatch.setattr(sys, "argv", ["rpg", "collect"])
    with pytest.raises(SystemExit) as exit:
        run_cli(command, "rpg")
    assert (exit.value.code, capsys.readouterr()) == (0, ("", "[1/4] collect\n"))


def test_a_program_that_uses_the_library_sees_warnings_and_says_itself_what_else():
    code = "import logging, zoo.store\nlog = logging.getLogger('zoo.store')\nlog.info('a'), log.warning('b')"
    choice = "import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
    for first, expected in (("", "b\n"), (choice, "a\nb\n")):
        run = subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True, check=True)
        assert (run.stdout, run.stderr) == ("", expected)


@pytest.mark.parametrize(("code", "said"), [("import slow", "loading libraries\n"), ("time.sleep(0.6)", "")])
def test_libraries_that_take_long_are_spoken_of(tmp_path, code, said):
    """And work that takes long is not called that."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.6)\n")
    program = f"""if True:
        import sys, time
        import zoo.console
        sys.path.insert(0, {str(tmp_path)!r})
        zoo.console.LONG_IMPORT = 0.3
        def command(arguments, **_):
            {code}
        zoo.console.run_cli(command, "rpg")
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", said)
