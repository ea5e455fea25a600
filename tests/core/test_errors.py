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
