"""What a user of the service reads when a space, a value or an override is wrong."""

from __future__ import annotations

import pickle

from search_spaces import SearchSpaceError
from search_spaces.errors import must_be_one_of, unknown_name
from warpadam import InvalidConfigError


def test_message_has_path_what_is_wrong_the_value_and_what_to_do() -> None:
    error = SearchSpaceError("p_lr.low", -1, "must be above 0", "Raise it.")
    assert str(error) == "p_lr.low: must be above 0 (got -1). Raise it."
    assert (error.path, error.value, error.message, error.hint) == ("p_lr.low", -1, "must be above 0", "Raise it.")


def test_a_missing_value_is_not_shown() -> None:
    assert str(SearchSpaceError("lr.low", None, "is required")) == "lr.low: is required"


def test_it_reads_like_the_error_of_the_optimizer() -> None:
    parts = ("rank", "x" * 500, "must be a whole number", "Give one.")
    assert str(SearchSpaceError(*parts)) == str(InvalidConfigError(*parts))
    assert len(str(SearchSpaceError(*parts))) < 300


def test_error_is_a_value_error() -> None:
    assert issubclass(SearchSpaceError, ValueError)


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(SearchSpaceError("rank", 0, "must be more", "Add one.")))
    assert (error.path, error.value, error.message, error.hint) == ("rank", 0, "must be more", "Add one.")
    assert str(error) == "rank: must be more (got 0). Add one."


def test_path_grows_from_the_outside() -> None:
    error = SearchSpaceError("low", 0, "is wrong", "Fix it.").under("p_lr").under("overrides")
    assert (error.path, error.message, error.hint) == ("overrides.p_lr.low", "is wrong", "Fix it.")
    assert SearchSpaceError("[1]", 0, "").under("rank").path == "rank[1]"


def test_close_name_is_suggested_and_a_far_one_is_not() -> None:
    known = ["beta1", "lr"]
    assert must_be_one_of("bta1", known) == ("must be one of beta1, lr", "Did you mean 'beta1'?")
    assert must_be_one_of("zzz", known) == ("must be one of beta1, lr", None)
    assert unknown_name("bta1", known) == ("is not a known name", "Did you mean 'beta1'? The names are beta1, lr.")
    assert unknown_name("zzz", known) == ("is not a known name", "The names are beta1, lr.")
