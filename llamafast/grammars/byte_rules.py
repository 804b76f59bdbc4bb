"""ByteRules: context-free rules over bytes, and checks of such rules before anything is generated."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamafast.errors import GrammarError


@dataclass(slots=True)
class ByteRules:
    """Context-free rules over bytes.

    rules: rules[r] are the alternatives of rule r, each a list of elements. Rule 0 is the root. An element s >= 0 is
        byte set s, and -2 - r is rule r. -1 is reserved for the end.
    byte_sets: byte_sets[s] has bit b set if set s contains byte b.
    """

    rules: list[list[list[int]]] = field(default_factory=list)
    byte_sets: list[int] = field(default_factory=list)


def keep_productive(rules: ByteRules) -> None:
    """Remove the alternatives that no text completes. Raises GrammarError if the root keeps none."""
    productive = _derivable(rules, with_bytes=True)
    if 0 not in productive:
        raise GrammarError("no text matches this grammar")
    for r, alternatives in enumerate(rules.rules):
        rules.rules[r] = [
            elements for elements in alternatives if all(e >= 0 or -2 - e in productive for e in elements)
        ]


def check_left_recursion(rules: ByteRules) -> None:
    """Raises GrammarError if a rule can reach itself without a byte, with elements after it."""
    nullable = _derivable(rules, with_bytes=False)
    edges: list[set[tuple[int, bool]]] = []  # (rule that may begin here, whether elements follow it)
    for alternatives in rules.rules:
        edges.append(set())
        for elements in alternatives:
            for i, element in enumerate(elements):
                if element >= 0:
                    break
                edges[-1].add((-2 - element, i + 1 < len(elements)))
                if -2 - element not in nullable:
                    break
    component = _components([{target for target, _ in targets} for targets in edges])
    for r, targets in enumerate(edges):
        if any(waits and component[target] == component[r] for target, waits in targets):
            raise GrammarError("the grammar is left-recursive")


def _derivable(rules: ByteRules, *, with_bytes: bool) -> set[int]:
    """The rules that some text matches. with_bytes False: those that the empty text matches."""
    users: dict[int, list[tuple[int, int]]] = {}
    num_missing: dict[tuple[int, int], int] = {}
    ready: list[int] = []
    for r, alternatives in enumerate(rules.rules):
        for a, elements in enumerate(alternatives):
            if not with_bytes and any(element >= 0 for element in elements):
                continue
            needs = {-2 - element for element in elements if element < 0}
            num_missing[r, a] = len(needs)
            for need in needs:
                users.setdefault(need, []).append((r, a))
            if not needs:
                ready.append(r)
    derivable: set[int] = set()
    while ready:
        rule = ready.pop()
        if rule in derivable:
            continue
        derivable.add(rule)
        for user in users.get(rule, ()):
            num_missing[user] -= 1
            if not num_missing[user]:
                ready.append(user[0])
    return derivable


def _components(edges: list[set[int]]) -> list[int]:
    """The number of each node's strongly connected component. Source: Kosaraju's algorithm, without recursion."""
    order: list[int] = []
    seen = [False] * len(edges)
    for root in range(len(edges)):
        stack = [] if seen[root] else [(root, iter(edges[root]))]
        seen[root] = True
        while stack:
            node, targets = stack[-1]
            target = next((target for target in targets if not seen[target]), None)
            if target is None:
                order.append(node)
                stack.pop()
            else:
                seen[target] = True
                stack.append((target, iter(edges[target])))
    backward: list[list[int]] = [[] for _ in edges]
    for node, after in enumerate(edges):
        for target in after:
            backward[target].append(node)
    component = [-1] * len(edges)
    for root in reversed(order):
        nodes = [root] if component[root] < 0 else []
        while nodes:
            node = nodes.pop()
            component[node] = root
            nodes += [source for source in backward[node] if component[source] < 0]
    return component
