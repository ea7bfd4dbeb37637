# What a user of the service reads when a space, a value or an override is wrong.
from __future__ import annotations

import pickle

from search_spaces import SearchSpaceError
from search_spaces.errors import one_of


def test_message_has_path_value_and_what_is_expected() -> None:
    error = SearchSpaceError("p_lr.low", -1, "a number > 0")
    assert str(error) == "p_lr.low: -1 is not valid: expected a number > 0"
    assert (error.path, error.value, error.expected) == ("p_lr.low", -1, "a number > 0")


def test_error_is_a_value_error() -> None:
    assert issubclass(SearchSpaceError, ValueError)


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(SearchSpaceError("rank", 0, "more")))
    assert (error.path, error.value, error.expected, str(error)) == (
        "rank",
        0,
        "more",
        "rank: 0 is not valid: expected more",
    )


def test_path_grows_from_the_outside() -> None:
    assert SearchSpaceError("low", 0, "").under("p_lr").under("overrides").path == "overrides.p_lr.low"
    assert SearchSpaceError("[1]", 0, "").under("rank").path == "rank[1]"


def test_close_name_is_suggested_and_a_far_one_is_not() -> None:
    assert one_of("bta1", ["beta1", "lr"]) == "one of beta1, lr (did you mean 'beta1'?)"
    assert one_of("zzz", ["beta1", "lr"]) == "one of beta1, lr"
