"""Errors are one sentence that says what, where, why and what to do."""

from factory.core.errors import BudgetError, FactoryError, InputError, nearest, unknown_name


def test_message_holds_all_parts_in_one_sentence():
    error = InputError(
        "key 'lattency' is unknown", where="demo.toml", why="extra key", fix="fix it"
    )
    assert str(error) == "key 'lattency' is unknown in demo.toml (extra key); fix it."
    assert "\n" not in str(error)


def test_exit_codes():
    assert InputError("x").exit_code == 2
    assert BudgetError("x").exit_code == 1
    assert issubclass(BudgetError, FactoryError)


def test_unknown_name_lists_known_and_nearest():
    text = str(unknown_name("device", "local-cpu-t1-fp23", ["local-cpu-t1-fp32", "pixel"]))
    assert "did you mean 'local-cpu-t1-fp32'?" in text
    assert "pixel" in text


def test_nearest_without_a_close_one_only_lists():
    assert nearest("zzz", ["alpha", "beta"]) == "known: alpha, beta"


def test_a_message_is_one_printable_line_whatever_it_quotes():
    quoted = "a\nb\r\n\tc\0d\ud800\x1b[31m"
    text = str(InputError(f"unknown {quoted}", where=quoted, why=quoted, fix=quoted))
    assert text.isprintable()
    assert "a b c" in text
    assert "\\ud800" in text


def test_a_long_message_loses_the_middle_of_its_parts():
    long = "begin " + "x" * 5000 + " " + "y z " * 3000 + "end"
    error = InputError(f"first {long}", where=long, why=long, fix=f"{long} last")
    text = str(error)
    assert len(text) <= 1000
    assert text.startswith("first begin")
    assert text.endswith("last.")


def test_the_nearest_name_of_many_and_long_ones_is_found_soon():
    known = [f"operator-{number}" for number in range(500)]
    text = nearest("operator-77" + "7" * 100_000, known)
    assert "and 470 more" in text
    assert len(text) < 1000
