"""A pushdown machine over bytes: finds the allowed next tokens under context-free rules. No llama.h here."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from libcpp.algorithm cimport sort
from libcpp.map cimport map as ordered_map
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cimport cython

cdef enum:
    END = -1                            # of an alternative
    DEAD = -1                           # a state
    UNKNOWN = -2                        # a transition that is not computed yet, or cannot be computed
    MAX_STACKS = 2048                   # stacks of one state, and stacks seen while it is computed
    MAX_MASKS = 64
    NODE_BYTES = 80                     # with its entries in tables
    STATE_BYTES = 200                   # without its stacks and transitions
    MAX_CALL_STACKS = 300000            # stacks seen in one call: 6 to 15 ms
    MAX_FIRST_STACKS = 10000000         # stacks seen for the first mask, which is computed before a request runs


@cython.final
cdef class TokenOrder:
    """The tokens of a vocabulary, sorted by bytes, each with the length of its common prefix with the previous token.

    token_bytes: shape (n_vocab,); tokens without bytes are never allowed.
    eog_ids: tokens that are allowed where the output is complete.
    """

    cdef vector[int32_t] ids, lengths, shared, offsets
    cdef vector[uint8_t] data
    cdef vector[int32_t] eog
    cdef vector[int32_t] place          # index of each token in ids; -1: the token has no bytes
    cdef readonly int n_vocab
    cdef int max_length

    def __init__(self, list token_bytes, eog_ids):
        cdef bytes previous = b"", data
        cdef int32_t token_id, n
        self.n_vocab = len(token_bytes)
        self.eog = eog_ids
        self.place.resize(self.n_vocab, -1)
        for token_id in sorted((i for i, data in enumerate(token_bytes) if data), key=token_bytes.__getitem__):
            data = token_bytes[token_id]
            n = 0
            while n < <int32_t> min(len(data), len(previous)) and data[n] == previous[n]:
                n += 1
            self.place[token_id] = <int32_t> self.ids.size()
            self.ids.push_back(token_id)
            self.lengths.push_back(<int32_t> len(data))
            self.shared.push_back(n)
            self.offsets.push_back(<int32_t> self.data.size())
            for n in range(<int32_t> len(data)):
                self.data.push_back(<uint8_t> data[n])
            self.max_length = max(self.max_length, <int> len(data))
            previous = data


cdef struct Node:
    int32_t pos                         # the element to match next
    int32_t parent                      # node to continue with after the end of the alternative; -1: none


@cython.final
@cython.no_gc_clear                     # the order outlives the machine
cdef class ByteMachine:
    """A machine for grammar rules. Its states are sets of stacks. State 0 is the start, -1 the dead state.

    States and transitions are computed when they are needed, and kept: a repeated transition costs one look-up.

    rules, byte_sets: as in grammars.byte_rules. max_bytes: maximum bytes of the states.
    All methods raise ValueError if the rules are too ambiguous, and MemoryError if the states take more than max_bytes
    (see compact).
    """

    cdef TokenOrder order
    cdef vector[int32_t] elements
    cdef vector[vector[int32_t]] starts             # per rule: index in elements of each alternative
    cdef vector[uint32_t] sets                      # 8 words for each byte set
    cdef vector[Node] nodes
    cdef unordered_map[uint64_t, int32_t] node_of
    cdef vector[vector[int32_t]] states             # per state: its nodes, ascending
    cdef vector[uint8_t] is_complete                # per state: whether the text may end there
    cdef ordered_map[vector[int32_t], int32_t] state_of     # by its nodes, followed by END if it is complete
    cdef vector[vector[int32_t]] transitions        # per state: (256,) next states; empty: none computed
    cdef vector[int32_t] stamps, found, path, path_up
    cdef vector[Node] work
    cdef int32_t stamp, num_seen
    cdef int64_t num_left               # stacks that this call may still see
    cdef readonly int64_t num_state_bytes
    cdef int64_t max_bytes
    cdef bint found_end
    cdef bint is_full
    cdef bint is_tried                  # whether the first mask is computed
    cdef dict masks

    def __init__(self, TokenOrder order not None, rules, byte_sets, int64_t max_bytes=32 << 20):
        cdef int32_t word, element
        self.order = order
        self.masks = {}
        self.max_bytes = max_bytes
        for alternatives in rules:
            self.starts.push_back(vector[int32_t]())
            for elements in alternatives:
                self.starts.back().push_back(<int32_t> self.elements.size())
                for element in elements:
                    self.elements.push_back(element)
                self.elements.push_back(END)
        for bits in byte_sets:
            for word in range(8):
                self.sets.push_back(<uint32_t> ((bits >> (32 * word)) & 0xFFFFFFFF))
        self.elements.push_back(-2)                 # the root, followed by its end
        self.elements.push_back(END)
        self.path.resize(order.max_length + 1)
        self.num_left = MAX_FIRST_STACKS
        self.add_start()

    @property
    def num_bytes(self) -> int:
        """Estimate of the bytes of states and masks."""
        return self.num_state_bytes + <int64_t> self.elements.size() * 40 + len(self.masks) * self.order.n_vocab // 8

    def compact(self, states) -> dict:
        """Remove all states except the start and these. Returns their new numbers by old ones, which become invalid."""
        cdef vector[Node] old_nodes
        cdef vector[vector[int32_t]] old_states
        cdef vector[uint8_t] old_complete
        cdef vector[int32_t] numbers
        cdef int32_t old
        cdef int64_t max_bytes = self.max_bytes
        cdef size_t i
        cdef dict out = {}
        self.max_bytes = INT64_MAX                  # the kept states were within the limit
        old_nodes.swap(self.nodes)
        old_states.swap(self.states)
        old_complete.swap(self.is_complete)
        numbers.resize(old_nodes.size(), UNKNOWN)
        self.node_of.clear()
        self.state_of.clear()
        self.transitions.clear()
        self.stamps.clear()
        self.masks.clear()
        self.num_state_bytes = 0
        self.is_full = False
        self.num_left = MAX_FIRST_STACKS
        self.add_start()
        for old in states:
            self.begin()
            for i in range(old_states[old].size()):
                self.found.push_back(self.moved(old_nodes, numbers, old_states[old][i]))
            self.found_end = old_complete[old]
            out[old] = self.checked(self.intern_state())
        self.max_bytes = max_bytes
        return out

    cdef int32_t moved(self, const vector[Node]& old_nodes, vector[int32_t]& numbers, int32_t old) except -3:
        # Returns the new number of an old node, after those of its parents. OUT numbers: new numbers of all of these.
        cdef int32_t parent = -1
        self.path_up.clear()
        while old >= 0 and numbers[old] == UNKNOWN:
            self.path_up.push_back(old)
            old = old_nodes[old].parent
        if old >= 0:
            parent = numbers[old]
        while not self.path_up.empty():
            old = self.path_up.back()
            self.path_up.pop_back()
            parent = self.checked(self.intern_node(old_nodes[old].pos, parent))
            numbers[old] = parent
        return parent

    cdef int add_start(self) except -1:
        self.begin()
        self.checked(self.close(<int32_t> self.elements.size() - 2, -1))
        self.checked(self.intern_state())
        return 0

    cdef int known(self, int32_t state) except -1:
        if not 0 <= state < <int32_t> self.states.size():
            raise IndexError(f"no state {state}")
        return 0

    cdef int32_t checked(self, int32_t result) except -3:
        if result == UNKNOWN:
            if self.is_full:
                raise MemoryError("the grammar is too ambiguous: its states take too much memory")
            if self.num_left <= 0:
                raise ValueError("the grammar is too ambiguous: finding the next tokens takes too long")
            raise ValueError("the grammar is too ambiguous: it has too many ways to continue")
        return result

    def accept(self, int32_t state, int32_t token_id) -> int:
        """The state after a token; -1 if the token is not allowed. End tokens are not handled here: see may_end."""
        cdef int32_t place, i
        if not 0 <= token_id < self.order.n_vocab:
            return DEAD
        place = self.order.place[token_id]
        if place < 0:
            return DEAD
        self.known(state)
        self.num_left = MAX_CALL_STACKS
        with nogil:
            for i in range(self.order.lengths[place]):
                state = self.step(state, self.order.data[self.order.offsets[place] + i])
                if state < 0:
                    break
        return self.checked(state)

    def may_end(self, int32_t state) -> bool:
        """Whether the text is complete in this state."""
        self.known(state)
        return self.is_complete[state]

    def must_end(self, int32_t state) -> bool:
        """Whether no byte can follow in this state."""
        self.known(state)
        return self.states[state].empty()

    def forced(self, int32_t state, int max_bytes) -> bytes:
        """The bytes that must come next, at most max_bytes."""
        cdef bytearray out = bytearray()
        cdef int byte
        self.known(state)
        self.num_left = MAX_CALL_STACKS
        while len(out) < max_bytes and not self.is_complete[state]:
            byte = self.only_byte(state)
            if byte < 0:
                break
            out.append(byte)
            state = self.checked(self.step(state, <uint8_t> byte))
        return bytes(out)

    def mask(self, int32_t state) -> bytes:
        """The allowed tokens as bits in 32-bit words, lowest bit first."""
        cdef bytes out = self.masks.get(state)
        cdef uint32_t* words
        cdef int32_t n_words = (self.order.n_vocab + 31) // 32, status
        if out is not None:
            return out
        self.known(state)
        self.num_left = MAX_CALL_STACKS if self.is_tried else MAX_FIRST_STACKS
        out = PyBytes_FromStringAndSize(NULL, 4 * n_words)
        words = <uint32_t*> PyBytes_AS_STRING(out)
        with nogil:
            memset(words, 0, 4 * n_words)
            status = self.fill(state, words)
        self.checked(status)
        self.is_tried = True
        if len(self.masks) >= MAX_MASKS:
            del self.masks[next(iter(self.masks))]
        self.masks[state] = out
        return out

    cdef int32_t fill(self, int32_t state, uint32_t* words) except -3 nogil:
        # OUT words: a bit for each allowed token. Tokens with a common prefix share its steps.
        cdef int32_t n_tokens = <int32_t> self.order.ids.size(), i, depth, length, alive = 0, current
        cdef const uint8_t* data
        self.path[0] = state
        for i in range(n_tokens):
            if self.order.shared[i] > alive:             # this token contains the byte that was not allowed
                continue
            depth, length = self.order.shared[i], self.order.lengths[i]
            data = self.order.data.data() + self.order.offsets[i]
            current = self.path[depth]
            while depth < length:
                current = self.step(current, data[depth])
                if current < 0:
                    break
                depth += 1
                self.path[depth] = current
            if current == UNKNOWN:
                return UNKNOWN
            alive = depth
            if depth == length:
                words[self.order.ids[i] >> 5] |= <uint32_t> 1 << (self.order.ids[i] & 31)
        if self.is_complete[state]:
            for i in range(<int32_t> self.order.eog.size()):
                words[self.order.eog[i] >> 5] |= <uint32_t> 1 << (self.order.eog[i] & 31)
        return 0

    cdef int only_byte(self, int32_t state) noexcept nogil:
        # Returns the only byte that the stacks of a state allow; -1 if they allow several.
        cdef uint32_t bits
        cdef int word, byte = -1
        cdef size_t i
        cdef int32_t element
        for word in range(8):
            bits = 0
            for i in range(self.states[state].size()):
                element = self.elements[self.nodes[self.states[state][i]].pos]
                bits |= self.sets[8 * element + word]
            if bits == 0:
                continue
            if byte >= 0 or bits & (bits - 1):
                return -1
            byte = 32 * word
            while bits > 1:
                bits >>= 1
                byte += 1
        return byte

    cdef int32_t step(self, int32_t state, uint8_t byte) except -3 nogil:
        # Returns the state after a byte, DEAD, or UNKNOWN if a limit is exceeded.
        cdef int32_t target, element
        cdef Node node
        cdef size_t i
        if self.transitions[state].empty():
            self.transitions[state].resize(256, UNKNOWN)
            self.num_state_bytes += 4 * 256
        target = self.transitions[state][byte]
        if target != UNKNOWN:
            return target
        self.begin()
        self.num_left -= <int64_t> self.states[state].size()
        for i in range(self.states[state].size()):
            node = self.nodes[self.states[state][i]]
            element = self.elements[node.pos]
            if self.sets[8 * element + (byte >> 5)] >> (byte & 31) & 1:
                if self.close(node.pos + 1, node.parent) == UNKNOWN:
                    return UNKNOWN
        target = self.intern_state()
        if target != UNKNOWN:
            self.transitions[state][byte] = target
        return target

    cdef void begin(self) noexcept nogil:
        self.stamp = self.stamp + 1
        self.num_seen = 0
        self.found.clear()
        self.found_end = False

    cdef int32_t close(self, int32_t pos, int32_t parent) except -3 nogil:
        # Adds to `found` all stacks that this stack can become without reading a byte.
        cdef Node node
        cdef int32_t number, element, after
        cdef size_t i
        self.work.clear()
        self.work.push_back(Node(pos, parent))
        while not self.work.empty():
            node = self.work.back()
            self.work.pop_back()
            self.num_left -= 1
            if self.num_left <= 0:
                return UNKNOWN
            element = self.elements[node.pos]
            if element == END and node.parent < 0:
                self.found_end = True
                continue
            number = self.intern_node(node.pos, node.parent)
            if number == UNKNOWN or self.num_seen > MAX_STACKS:
                return UNKNOWN
            if self.stamps[number] == self.stamp:
                continue
            self.stamps[number] = self.stamp
            self.num_seen = self.num_seen + 1
            if element >= 0:
                self.found.push_back(number)
            elif element == END:
                self.work.push_back(self.nodes[node.parent])
            else:
                after = node.parent                 # without a following element, right recursion needs no stack
                if self.elements[node.pos + 1] != END:
                    after = self.intern_node(node.pos + 1, node.parent)
                    if after == UNKNOWN:
                        return UNKNOWN
                for i in range(self.starts[-2 - element].size()):
                    self.work.push_back(Node(self.starts[-2 - element][i], after))
        return 0

    cdef int32_t intern_node(self, int32_t pos, int32_t parent) except -3 nogil:
        cdef uint64_t key = (<uint64_t> <uint32_t> pos) << 32 | <uint32_t> parent
        cdef int32_t number = <int32_t> self.nodes.size()
        if self.node_of.count(key):
            return self.node_of[key]
        if self.num_state_bytes >= self.max_bytes:
            self.is_full = True
            return UNKNOWN
        self.num_state_bytes += NODE_BYTES
        self.nodes.push_back(Node(pos, parent))
        self.stamps.push_back(0)
        self.node_of[key] = number
        return number

    cdef int32_t intern_state(self) except -3 nogil:
        cdef int32_t number = <int32_t> self.states.size()
        cdef vector[int32_t] key
        if self.found.empty() and not self.found_end:
            return DEAD
        sort(self.found.begin(), self.found.end())
        key = self.found
        if self.found_end:
            key.push_back(END)
        if self.state_of.count(key):
            return self.state_of[key]
        if self.num_state_bytes >= self.max_bytes:
            self.is_full = True
            return UNKNOWN
        self.num_state_bytes += STATE_BYTES + 8 * <int64_t> key.size()
        self.states.push_back(self.found)
        self.is_complete.push_back(self.found_end)
        self.transitions.push_back(vector[int32_t]())
        self.state_of[key] = number
        return number
