"""The model runner: one step of the engine is one decode and one pass over its output rows, without the GIL."""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy, memset
from libcpp.algorithm cimport sort
from libcpp.vector cimport vector

cimport cython
cimport llamafast._kernels as kernels
cimport llamafast._llama as lib
cimport llamafast._sampling as sampling
from llamafast._core cimport Context, MediaBatch, RowBatch, take_log

import array as _array

from llamafast.errors import DecodeError, GrammarError, request_failure

cdef extern from "_parallel.h" nogil:
    enum:
        PARALLEL_AVAILABLE
    void parallel_for(int32_t n, int32_t n_threads, void (*call)(void*, int32_t, int32_t) noexcept nogil, void* data)

SAMPLES_IN_PARALLEL = bool(PARALLEL_AVAILABLE)

cdef enum:
    NOT_DRAWN = -2
    PARALLEL_LOGITS = 1 << 17           # for fewer logits in a step, waking the threads costs more than it saves

cdef array.array FLOATS = _array.array("f")


cdef struct Draws:
    sampling.SamplerState** states      # per draw
    const char* is_constrained          # per draw: whether it draws without accepting
    const int32_t* starts               # per draw: its first place; at the end: the number of places
    int32_t* lengths                    # per draw, OUT: accepted tokens
    float** logits                      # per place
    int32_t* drawn                      # per place, OUT
    Score* kept                         # per place, OUT
    const int32_t* rows                 # per place: its batch row
    const int32_t* tokens               # per batch row
    const int32_t* groups               # draws that share a row, which they change in turn, run on one thread
    kernels.Scratch* scratches          # per thread


cdef inline int draw_run(Draws* draws, int32_t i, int32_t thread) except -1 nogil:
    # Draws and accepts at each place of draw i, up to the first token that differs from the draft in the next row.
    cdef sampling.SamplerState* state = draws.states[i]
    cdef int32_t place = draws.starts[i], token
    while place < draws.starts[i + 1]:
        token = sampling.draw_row(state, draws.logits[place], &draws.scratches[thread])
        if token >= 0 and state.num_logprobs >= 0:
            keep_score(state, &draws.kept[place])
        draws.drawn[place] = token
        place += 1
        if place < draws.starts[i + 1] and token != draws.tokens[draws.rows[place]]:
            break
    draws.lengths[i] = place - draws.starts[i]
    return 0


cdef void draw_group(void* data, int32_t group, int32_t thread) noexcept nogil:
    # After a failure, which can only be missing memory, `drawn` still contains NOT_DRAWN.
    cdef Draws* draws = <Draws*> data
    cdef int32_t i, place
    for i in range(draws.groups[group], draws.groups[group + 1]):
        if draws.is_constrained[i]:
            place = draws.starts[i]
            draws.drawn[place] = sampling.draw_token(draws.states[i], draws.logits[place],
                                                     draws.states[i].num_accepted, &draws.scratches[thread])
        else:
            draw_run(draws, i, thread)


@cython.final
@cython.no_gc_clear                     # the context outlives the runner
cdef class ModelRunner:
    """Runs the plan of each step: decodes its batch and samples its rows, without the GIL.

    decode_s, sample_s: seconds spent in decoding and in sampling since the start.
    num_decodes: number of steps.
    num_parallel: number of steps in which several of the decode's threads sampled. The tokens do not depend on it.
    """

    def __init__(self, Context context not None):
        self.context = context
        self.samplers = []

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.scratches.size()):
            kernels.scratch_free(&self.scratches[i])

    def step(self, plan) -> list:
        """Decode plan.batch, score the rows in plan.scored, then draw and accept tokens.

        plan.samplers[i] draws from batch row plan.rows[i]. Several samplers may share a row (forks).
        plan.drafts: (i, n) for each sampler i with n drafted tokens, which are in the n rows after plan.rows[i]. Such a
        sampler continues with the next row while it draws the drafted tokens.
        plan.constraints: (i, constraint) for each sampler i with a constraint.
        plan.scored: (row, token id, number of alternatives) of each scored row.

        Returns the runs: runs[i] is the list of tokens that plan.samplers[i] accepted, at least one. A run ends with -1
        if no token is allowed; the `error` of its constraint is then the reason. The plan does not change. Raises
        DecodeError (status 1: no free KV cells, nothing changed; others are fatal), and ValueError for errors that
        would make llama.cpp abort the process: too many rows or outputs, a token or sequence id out of range.
        """
        cdef Context context = self.context
        cdef RowBatch batch = plan.batch
        cdef lib.llama_batch c
        cdef int32_t n_threads
        cdef int status
        cdef int64_t start, middle, end
        self.check_batch(batch)
        self.read_draws(batch, plan.rows, plan.samplers, plan.drafts, plan.constraints)
        self.read_scored(plan.scored)
        self.mark_outputs(batch)
        c = batch.c
        n_threads = min(context.threads, context.threads_batch) if c.n_tokens > 1 else context.threads
        with nogil:
            start = lib.llama_time_us()
            if not batch.is_causal:
                lib.llama_set_causal_attn(context.ptr, False)
            status = lib.llama_decode(context.ptr, c)
            if status == 0:
                lib.llama_synchronize(context.ptr)
            if not batch.is_causal:
                lib.llama_set_causal_attn(context.ptr, True)
            middle = lib.llama_time_us()
            if status == 0:
                status = score_rows(context.ptr, self.asked, self.scored, context.model.n_vocab)
            if status == 0:
                status = self.draw(batch, n_threads)
        if status == 0:
            for i, constraint in plan.constraints:
                self.settle_run(batch, i, constraint)
        end = lib.llama_time_us()
        self.num_decodes += 1
        self.decode_s += (middle - start) * 1e-6
        self.sample_s += (end - middle) * 1e-6
        if status != 0:
            raise DecodeError(decode_message(status), status)
        return self.runs()

    cdef list runs(self):
        cdef Py_ssize_t i
        cdef int32_t first, k
        cdef list runs = []
        for i in range(<Py_ssize_t> self.states.size()):
            first = self.starts[i]
            if self.lengths[i] == 1:
                runs.append([self.drawn[first]])
            else:
                runs.append([self.drawn[first + k] for k in range(self.lengths[i])])
        return runs

    cdef int check_batch(self, RowBatch batch) except -1:
        cdef Context context = self.context
        cdef int n_tokens = batch.c.n_tokens, n_vocab = context.model.n_vocab, i
        if not 1 <= n_tokens <= context.n_batch:
            raise ValueError(f"a batch of {n_tokens} rows; n_batch is {context.n_batch}")
        if not batch.is_causal and n_tokens > context.n_ubatch:
            raise ValueError(f"{n_tokens} rows that attend to later ones; n_ubatch is {context.n_ubatch}")
        if isinstance(batch, MediaBatch):
            if (<MediaBatch> batch).n_embd != context.model.n_embd_inp:
                raise ValueError("the batch is for another model")
            (<MediaBatch> batch).seal()
        for i in range(n_tokens):
            if batch.c.token is not NULL and not 0 <= batch.c.token[i] < n_vocab:
                raise ValueError(f"row {i}: token id {batch.c.token[i]} is not in [0, {n_vocab})")
            if not 0 <= batch.c.seq_id[i][0] < context.n_seq_max or batch.c.pos[i] < 0:
                raise ValueError(f"row {i}: sequence {batch.c.seq_id[i][0]}, position {batch.c.pos[i]}")
        return 0

    cdef int read_draws(self, RowBatch batch, rows, samplers, drafts, constraints) except -1:
        """Check the draws of a plan. OUT samplers, states, is_constrained, starts, rows."""
        cdef Py_ssize_t n_draws = len(samplers), i
        cdef int32_t n_vocab = self.context.model.n_vocab, n_tokens = batch.c.n_tokens, row, place = 0, k, n
        cdef sampling.Sampler sampler
        if len(rows) != n_draws:
            raise ValueError(f"{len(rows)} rows for {n_draws} samplers")
        self.samplers = list(samplers)
        self.states.resize(n_draws)
        self.is_constrained.assign(n_draws, 0)
        self.lengths.assign(n_draws, 1)
        self.starts.assign(n_draws + 1, 1)
        for i, n in drafts:
            if not 0 <= i < n_draws or n < 0:
                raise ValueError(f"sampler {i} of {n_draws}: {n} drafted tokens")
            if batch.c.token is NULL and n:
                raise ValueError("a batch of media has no drafts")
            self.starts[i] += n
        self.rows.clear()
        for i in range(n_draws):
            sampler = <sampling.Sampler?> self.samplers[i]
            if sampler.ptr.n_vocab != n_vocab:
                raise ValueError(f"sampler {i} is for another vocabulary")
            self.states[i] = sampler.ptr
            row, n = rows[i], self.starts[i]
            if not (0 <= row < n_tokens and n <= n_tokens - row):
                raise ValueError(f"row {row}, and {n - 1} after it, of a batch of {n_tokens}")
            self.starts[i] = place
            for k in range(n):
                self.rows.push_back(row + k)
            place += n
        self.starts[n_draws] = place
        for i, _ in constraints:
            if not 0 <= i < n_draws:
                raise ValueError(f"a constraint of sampler {i} of {n_draws}")
            self.is_constrained[i] = 1
        return 0

    cdef int read_scored(self, scored) except -1:
        """Check the scored rows of a plan. OUT asked."""
        cdef AskedScore asked
        self.asked.clear()
        for asked.row, asked.token, asked.n_top in scored:
            if not 0 <= asked.token < self.context.model.n_vocab:
                raise ValueError(f"row {asked.row}: token id {asked.token} is not in [0, {self.context.model.n_vocab})")
            if asked.n_top < 0:
                raise ValueError(f"row {asked.row}: {asked.n_top} alternatives")
            self.asked.push_back(asked)
        self.scored.resize(self.asked.size())
        return 0

    cdef int mark_outputs(self, RowBatch batch) except -1:
        """Mark the rows that need logits: those that are drawn from or scored."""
        cdef int n_outputs = 0
        cdef int32_t row
        cdef AskedScore asked
        memset(batch.c.logits, 0, batch.c.n_tokens)
        for row in self.rows:
            n_outputs += 1 - batch.c.logits[row]
            batch.c.logits[row] = 1
        for asked in self.asked:
            if not 0 <= asked.row < batch.c.n_tokens:
                raise ValueError(f"row {asked.row} of a batch of {batch.c.n_tokens}")
            n_outputs += 1 - batch.c.logits[asked.row]
            batch.c.logits[asked.row] = 1
        if n_outputs > self.context.n_outputs_max:
            raise ValueError(f"{n_outputs} output rows; n_outputs_max is {self.context.n_outputs_max}")
        return 0

    cdef int draw(self, RowBatch batch, int32_t n_threads) except -1 nogil:
        """Draw at all places; constrained draws only at their first place, without accepting. OUT drawn, lengths, kept.

        Returns a status: 0, or -100 if logits are missing.
        """
        cdef int32_t n_places = <int32_t> self.rows.size(), n_vocab = self.context.model.n_vocab, i
        cdef Draws draws
        self.kept.resize(n_places)
        self.drawn.assign(n_places, NOT_DRAWN)
        if self.find_logits() != 0:
            return -100
        if not PARALLEL_AVAILABLE or <int64_t> n_places * n_vocab < PARALLEL_LOGITS or not self.is_independent():
            n_threads = 1
        while self.scratches.size() < <size_t> n_threads:
            self.scratches.push_back(kernels.Scratch(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0))
        for i in range(n_threads):
            kernels.scratch_reserve(&self.scratches[i], n_vocab)
        draws = Draws(self.states.data(), self.is_constrained.data(), self.starts.data(), self.lengths.data(),
                      self.logits_of.data(), self.drawn.data(), self.kept.data(), self.rows.data(), batch.c.token,
                      self.groups.data(), self.scratches.data())
        parallel_for(<int32_t> self.groups.size() - 1, n_threads, draw_group, &draws)
        self.num_parallel = self.num_parallel + (n_threads > 1)
        for i in range(<int32_t> self.states.size()):
            if self.drawn[self.starts[i] + self.lengths[i] - 1] == NOT_DRAWN:
                with gil:
                    raise MemoryError("no memory to sample a row")
        return 0

    cdef int find_logits(self) except -1 nogil:
        """OUT logits_of, groups. Returns 0, or -100 if a row has no logits."""
        cdef size_t i
        self.logits_of.resize(self.rows.size())
        for i in range(self.rows.size()):
            self.logits_of[i] = lib.llama_get_logits_ith(self.context.ptr, self.rows[i])
            if self.logits_of[i] is NULL:
                return -100
        self.groups.clear()
        for i in range(self.states.size()):
            if i == 0 or self.logits_of[self.starts[i]] != self.logits_of[self.starts[i - 1]]:
                self.groups.push_back(<int32_t> i)
        self.groups.push_back(<int32_t> self.states.size())
        return 0

    cdef bint is_independent(self) except -1 nogil:
        """Whether the step has several groups, and no two groups share a row or a sampler."""
        cdef size_t i, n_places = self.logits_of.size(), n_shared = 0, n_distinct = 1
        if self.groups.size() < 3:
            return False
        self.sorted_states = self.states
        sort(self.sorted_states.begin(), self.sorted_states.end())
        for i in range(1, self.sorted_states.size()):
            if self.sorted_states[i] == self.sorted_states[i - 1]:
                return False
        self.sorted_logits = self.logits_of
        sort(self.sorted_logits.begin(), self.sorted_logits.end())
        for i in range(1, n_places):
            n_distinct += self.sorted_logits[i] != self.sorted_logits[i - 1]
        n_shared = self.states.size() - (self.groups.size() - 1)        # draws from the same row as the draw before
        return n_distinct == n_places - n_shared

    cdef int settle_run(self, RowBatch batch, Py_ssize_t i, constraint) except -1:
        """Like draw_run, for a constrained draw after its first token was drawn. OUT drawn, lengths, kept."""
        cdef int32_t place = self.starts[i], end = self.starts[i + 1], token
        cdef sampling.SamplerState* state = self.states[i]
        while True:
            token = self.drawn[place] = self.settle(i, place, constraint)
            if token >= 0 and state.num_logprobs >= 0:
                keep_score(state, &self.kept[place])
            place += 1
            if place == end or token != batch.c.token[self.rows[place]] or constraint.is_finished:
                break
            with nogil:
                self.drawn[place] = sampling.draw_token(state, self.logits_of[place], state.num_accepted,
                                                        &self.scratches[0])
        self.lengths[i] = place - self.starts[i]
        return 0

    cdef int32_t settle(self, Py_ssize_t i, int32_t place, constraint) except -2:
        """Accept the drawn token if the constraint allows it. If not, repeat the race among the allowed tokens.

        Without filters, both ways give the winner among the allowed tokens. Returns the token, or -1.
        """
        cdef sampling.SamplerState* state = self.states[i]
        cdef float* logits = self.logits_of[place]
        cdef int32_t token = self.drawn[place]
        cdef bytes mask
        cdef const uint32_t* words
        try:
            if token < 0 or not constraint.accept(token):
                mask = constraint.mask()
                if len(mask) * 8 < state.n_vocab:
                    raise ValueError(f"a mask of {len(mask)} bytes for {state.n_vocab} tokens")
                words = <const uint32_t*> PyBytes_AS_STRING(mask)
                with nogil:
                    token = sampling.draw_masked(state, logits, words, state.num_accepted, &self.scratches[0])
                if token < 0 or not constraint.accept(token):
                    raise GrammarError("the grammar and the other settings allow no next token")
        except BaseException as error:  # the other sequences must continue after any error
            constraint.error = request_failure(error)
            return -1
        with nogil:
            sampling.keep_logprobs(state, logits, token)
            sampling.accept_token(state, token)
        return token

    def logprobs(self, Py_ssize_t i, Py_ssize_t k=0):
        """(raw logprob, [(id, logprob), ...] most likely first) of token k of run i of the last step.

        Raises IndexError, and ValueError if the sampler has no logprobs.
        """
        if not 0 <= i < len(self.samplers):
            raise IndexError(f"sampler {i} of {len(self.samplers)}")
        if not 0 <= k < self.lengths[i]:
            raise IndexError(f"token {k} of {self.lengths[i]}")
        if self.states[i].num_logprobs < 0:
            raise ValueError("this sampler has no logprobs")
        cdef Score* score = &self.kept[self.starts[i] + k]
        return score.logprob, best_of(score)

    def scores(self) -> dict:
        """Scores of the last step by batch row of plan.scored: (raw logprob, rank from 1, [(id, logprob), ...]).

        The pairs begin with the most likely token.
        """
        cdef size_t i
        scores = {}
        for i in range(self.scored.size()):
            scores[self.asked[i].row] = (self.scored[i].logprob, self.scored[i].rank, best_of(&self.scored[i]))
        return scores

    def logits(self, Py_ssize_t i, Py_ssize_t k=0):
        """Copy of the raw logits at place k of sampler i in the last step: array('f'), shape (n_vocab,). For tests."""
        if not 0 <= i < <Py_ssize_t> self.states.size():
            raise IndexError(f"sampler {i} of {self.states.size()}")
        if not 0 <= k < self.starts[i + 1] - self.starts[i]:
            raise IndexError(f"place {k} of {self.starts[i + 1] - self.starts[i]}")
        cdef const float* logits = lib.llama_get_logits_ith(self.context.ptr, self.rows[self.starts[i] + k])
        cdef array.array out = array.clone(FLOATS, self.context.model.n_vocab, zero=False)
        memcpy(out.data.as_floats, logits, self.context.model.n_vocab * sizeof(float))
        return out


cdef int keep_score(sampling.SamplerState* state, Score* score) except -1 nogil:
    # OUT score: the logprobs of the last token, which the sampler keeps until its next draw
    cdef size_t k, n = state.top_ids.size()
    score.logprob = state.logprob
    score.top_ids.resize(n)
    score.top_logprobs.resize(n)
    for k in range(n):
        score.top_ids[k] = state.top_ids[k]
        score.top_logprobs[k] = state.top_logprobs[k]
    return 0


cdef list best_of(Score* score):
    cdef size_t k
    return [(score.top_ids[k], score.top_logprobs[k]) for k in range(score.top_ids.size())]


cdef int score_rows(lib.llama_context* ctx, vector[AskedScore]& asked, vector[Score]& scored,
                    int32_t n_vocab) except -1 nogil:
    # IN asked; OUT scored, of the same size. Returns 0, or -100 if a row has no logits
    cdef size_t i
    cdef int32_t k, n
    cdef float* logits
    cdef double total
    cdef Score* score
    for i in range(asked.size()):
        logits = lib.llama_get_logits_ith(ctx, asked[i].row)
        if logits is NULL:
            return -100
        score = &scored[i]
        total = kernels.row_logsumexp(logits, n_vocab)
        score.logprob = <float> (logits[asked[i].token] - total)
        score.rank = kernels.row_rank(logits, n_vocab, asked[i].token)
        n = min(asked[i].n_top, n_vocab)
        score.top_ids.resize(n)
        score.top_logprobs.resize(n)
        kernels.row_top_n(logits, n_vocab, n, score.top_ids.data(), score.top_logprobs.data())
        for k in range(n):
            score.top_logprobs[k] = <float> (score.top_logprobs[k] - total)
    return 0


cdef str decode_message(int status):
    if status == 1:
        return "no free cells in the KV memory for this batch"
    return f"llama_decode failed with {status}: {take_log()}"
