"""Tokens: how they are written in the settings, and how one is found."""

from __future__ import annotations

import pytest

from velesio_worker.gateway.tokens import Tokens, read_tokens


def test_tokens_stand_between_commas_or_line_breaks_with_or_without_names() -> None:
    tokens = read_tokens("alice=a1, plain ,\r\nbob = b=b\n\ncGFkZGVk==\n")
    assert [token.name for token in tokens][::2] == ["alice", "bob"]
    found = Tokens(tokens)
    for shown, name in (("a1", "alice"), ("b=b", "bob")):
        token = found.find(shown)
        assert token is not None
        assert token.name == name
    assert found.find("plain") == tokens[1]
    assert found.find("cGFkZGVk==") == tokens[3]
    for wrong in ("", "alice", "alice=a1", "a", "a11", "\udcff"):
        assert found.find(wrong) is None


def test_a_token_without_a_name_has_one_that_does_not_depend_on_the_others() -> None:
    [alone] = read_tokens("plain")
    assert alone == read_tokens("other,plain")[1]
    assert alone.name.startswith("token-")
    assert "plain" not in repr(alone)


def test_a_name_may_have_two_tokens_while_one_takes_the_place_of_the_other() -> None:
    old, new = read_tokens("alice=old,alice=new")
    assert old.name == new.name
    assert old.key != new.key


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "one or more tokens"),
        (" , \n", "one or more tokens"),
        ("a,b=a", "one is there twice"),
        ("two words", "without spaces"),
        ("ü", "printable ASCII"),
        ("a\x07", "printable ASCII"),
        ("a\x07b=c", "names of up to 128"),
        ("n" * 129 + "=c", "names of up to 128"),
    ],
)
def test_what_is_no_list_of_tokens_is_told_what_is(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_tokens(text)


def test_without_tokens_there_is_none_to_find() -> None:
    assert not Tokens(())
    assert Tokens(read_tokens("a"))
