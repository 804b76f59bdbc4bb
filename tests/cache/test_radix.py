"""RadixTree against a brute-force twin."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.cache.radix import RadixTree

TOKENS = st.lists(st.integers(0, 2), max_size=12)


def ids(token_ids) -> array:
    return array("i", token_ids)


def common(a, b) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), TOKENS), max_size=40), TOKENS)
def test_radix_random_history_matches_like_brute_force(history, query):
    tree, twin = RadixTree(), {}
    for is_insert, owner, tokens in history:
        if is_insert:
            tree.insert(owner, ids(tokens))
            twin[owner] = tokens
        elif owner in twin:
            tree.remove(owner)
            del twin[owner]
    longest = max((common(tokens, query) for tokens in twin.values()), default=0)
    length, owner = tree.match(ids(query))
    assert length == longest
    assert owner == -1 if longest == 0 else common(twin[owner], query) == longest
    whole = {owner for owner, tokens in twin.items() if tokens and query[: len(tokens)] == tokens}
    assert set(tree.prefixes(ids(query))) == whole
    length, owner = tree.longest_prefix(ids(query))
    assert length == max((len(twin[owner]) for owner in whole), default=0)
    assert owner == -1 if not whole else len(twin[owner]) == length
    assert len(tree) == len(twin)


@given(st.lists(TOKENS, max_size=8))
def test_radix_all_removed_leaves_an_empty_tree(lists):
    tree = RadixTree()
    for owner, tokens in enumerate(lists):
        tree.insert(owner, ids(tokens))
    for owner in range(len(lists)):
        tree.remove(owner)
    assert len(tree) == 0
    assert not tree._root.children


def test_radix_match_inside_an_edge_gives_the_common_part():
    tree = RadixTree()
    tree.insert(7, ids([1, 2, 3, 4, 5]))
    assert tree.match(ids([1, 2, 3, 9])) == (3, 7)


def test_radix_ids_that_share_bytes_are_told_apart():
    tree = RadixTree()
    tree.insert(1, ids([5, 0x01020304, 6]))
    assert tree.match(ids([5, 0x01020305, 6])) == (1, 1)  # four bytes a token: the first three here are equal
    assert tree.match(ids([5, 0x02020304, 6])) == (1, 1)


def test_radix_second_insert_of_an_owner_replaces_its_list():
    tree = RadixTree()
    tree.insert(1, ids([1, 2, 3]))
    tree.insert(1, ids([4, 5]))
    assert tree.match(ids([1, 2, 3])) == (0, -1)
    assert tree.match(ids([4, 5, 6])) == (2, 1)


def test_radix_two_owners_of_one_list_are_kept_apart():
    tree = RadixTree()
    tree.insert(1, ids([1, 2]))
    tree.insert(2, ids([1, 2]))
    tree.remove(1)
    assert tree.match(ids([1, 2])) == (2, 2)


def test_radix_unknown_owner_removed_raises_key_error():
    with pytest.raises(KeyError):
        RadixTree().remove(3)


def test_radix_long_list_matches_to_the_token():
    tree = RadixTree()
    tokens = list(range(5000))
    tree.insert(1, ids(tokens))
    for n in (1, 63, 64, 4095, 4999):
        assert tree.match(ids([*tokens[:n], -1])) == (n, 1)
