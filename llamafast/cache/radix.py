"""RadixTree: finds the longest common prefix of a prompt and all stored lists of row ids."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_TOKEN_BYTES = array("i").itemsize


class RadixTree:
    """Stores lists of ids, array('i'), by owner (any int). Edges hold runs of ids as bytes, compared by memcmp.

    Source: RadixAttention, arXiv:2312.07104. Here a match may also end inside an edge.
    """

    def __init__(self) -> None:
        self._root = _Node(b"", None)
        self._node_of: dict[int, _Node] = {}

    def __len__(self) -> int:
        return len(self._node_of)

    def __contains__(self, owner: int) -> bool:
        return owner in self._node_of

    def insert(self, owner: int, token_ids: array[int]) -> None:
        """Store a list for an owner; it replaces the owner's old list. O(n)."""
        if owner in self._node_of:
            self.remove(owner)
        key = token_ids.tobytes()
        node, start = self._root, 0
        while start < len(key):
            child = node.children.get(key[start : start + _TOKEN_BYTES])
            if child is None:
                child = _Node(key[start:], node)
                node.children[child.edge[:_TOKEN_BYTES]] = child
                node = child
                break
            common = _common_bytes(child.edge, key, start)
            if common < len(child.edge):
                child = child.split(common)
            node, start = child, start + common
        node.owners.add(owner)
        self._node_of[owner] = node

    def remove(self, owner: int) -> None:
        """Remove an owner's list. Raises KeyError if it has none."""
        node = self._node_of.pop(owner)
        node.owners.discard(owner)
        parent = node.parent
        if parent is not None and not node.owners and not node.children:
            del parent.children[node.edge[:_TOKEN_BYTES]]
            node = parent
        node.merge_only_child()

    def match(self, token_ids: array[int]) -> tuple[int, int]:
        """(length, owner) of the longest common prefix with any list; (0, -1) without one. O(n)."""
        key = token_ids.tobytes()
        node, start = self._root, 0
        while start < len(key):
            child = node.children.get(key[start : start + _TOKEN_BYTES])
            if child is None:
                break
            common = _common_bytes(child.edge, key, start)
            node, start = child, start + common
            if common < len(child.edge):
                break
        return (start // _TOKEN_BYTES, node.any_owner()) if start else (0, -1)

    def prefixes(self, token_ids: array[int]) -> list[int]:
        """Owners whose whole list is a prefix of token_ids, or equal to it."""
        return [owner for _, node in self._path(token_ids) for owner in node.owners]

    def longest_prefix(self, token_ids: array[int]) -> tuple[int, int]:
        """(length, owner) of the longest list that is a prefix of token_ids or equal to it; (0, -1) without one."""
        ends = [(length, next(iter(node.owners))) for length, node in self._path(token_ids) if node.owners]
        return ends[-1] if ends else (0, -1)

    def _path(self, token_ids: array[int]) -> Iterator[tuple[int, _Node]]:
        """(length, node) of each node whose whole list is a prefix of token_ids, the shortest first."""
        key = token_ids.tobytes()
        node, start = self._root, 0
        while start < len(key):
            child = node.children.get(key[start : start + _TOKEN_BYTES])
            if child is None or not key.startswith(child.edge, start):
                return
            node, start = child, start + len(child.edge)
            yield start // _TOKEN_BYTES, node

    def key(self, owner: int) -> array[int]:
        """The list of an owner. Raises KeyError if it has none. O(n)."""
        node: _Node | None = self._node_of[owner]
        edges: list[bytes] = []
        while node is not None:
            edges.append(node.edge)
            node = node.parent
        return array("i", b"".join(reversed(edges)))


class SaltedTree:
    """A RadixTree for each salt: a list is found only with the salt under which it was stored."""

    def __init__(self) -> None:
        self._trees: dict[str, RadixTree] = {}
        self._salt_of: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._salt_of)

    def __contains__(self, owner: int) -> bool:
        return owner in self._salt_of

    def insert(self, owner: int, token_ids: array[int], salt: str = "") -> None:
        """Like RadixTree.insert, under a salt."""
        if owner in self._salt_of:
            self.remove(owner)
        self._salt_of[owner] = salt
        self._trees.setdefault(salt, RadixTree()).insert(owner, token_ids)

    def remove(self, owner: int) -> None:
        """Like RadixTree.remove."""
        salt = self._salt_of.pop(owner)
        tree = self._trees[salt]
        tree.remove(owner)
        if not len(tree):
            del self._trees[salt]

    def match(self, token_ids: array[int], salt: str = "") -> tuple[int, int]:
        """Like RadixTree.match, among the lists of this salt."""
        tree = self._trees.get(salt)
        return (0, -1) if tree is None else tree.match(token_ids)

    def match_other(self, token_ids: array[int], salt: str) -> int:
        """Length of the longest common prefix with a list of any other salt. O(n) per salt."""
        return max((tree.match(token_ids)[0] for other, tree in self._trees.items() if other != salt), default=0)

    def prefixes(self, token_ids: array[int], salt: str = "") -> list[int]:
        """Like RadixTree.prefixes, among the lists of this salt."""
        tree = self._trees.get(salt)
        return [] if tree is None else tree.prefixes(token_ids)

    def longest_prefix(self, token_ids: array[int], salt: str = "") -> tuple[int, int]:
        """Like RadixTree.longest_prefix, among the lists of this salt."""
        tree = self._trees.get(salt)
        return (0, -1) if tree is None else tree.longest_prefix(token_ids)

    def key(self, owner: int) -> array[int]:
        """Like RadixTree.key."""
        return self._trees[self._salt_of[owner]].key(owner)

    def salt(self, owner: int) -> str:
        """The salt of an owner's list. Raises KeyError if it has none."""
        return self._salt_of[owner]


class _Node:
    """A node and the edge to it. Every leaf except the root has an owner.

    edge: ids between the parent and this node, as bytes.
    children: nodes by the first id of their edges, as bytes.
    owners: owners whose lists end here.
    """

    __slots__ = ("children", "edge", "owners", "parent")

    def __init__(self, edge: bytes, parent: _Node | None) -> None:
        self.edge = edge
        self.parent = parent
        self.children: dict[bytes, _Node] = {}
        self.owners: set[int] = set()

    def split(self, num_bytes: int) -> _Node:
        """Cut this node's edge in two at num_bytes. Returns the new upper node."""
        assert self.parent is not None
        upper = _Node(self.edge[:num_bytes], self.parent)
        self.parent.children[upper.edge[:_TOKEN_BYTES]] = upper
        self.edge = self.edge[num_bytes:]
        self.parent = upper
        upper.children[self.edge[:_TOKEN_BYTES]] = self
        return upper

    def merge_only_child(self) -> None:
        """Remove this node if it has no owner and only one child."""
        if self.parent is None or self.owners or len(self.children) != 1:
            return
        (child,) = self.children.values()
        child.edge = self.edge + child.edge
        child.parent = self.parent
        self.parent.children[child.edge[:_TOKEN_BYTES]] = child

    def any_owner(self) -> int:
        node = self
        while not node.owners:
            node = next(iter(node.children.values()))
        return next(iter(node.owners))


def _common_bytes(edge: bytes, key: bytes, start: int) -> int:
    """Length in bytes of the common prefix of edge and key[start:], in whole ids."""
    n = min(len(edge), len(key) - start)
    if edge[:n] == key[start : start + n]:
        return n
    low, high = 0, n  # edge[:low] is equal, edge[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if edge[low:middle] == key[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low - low % _TOKEN_BYTES
