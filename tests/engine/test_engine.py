"""Engine: generate, abort in every state, failures, closing."""

from __future__ import annotations

import pytest

from llamafast.engine.engine import EngineConfig
from llamafast.errors import ContextLengthError, EngineDeadError, InvalidRequestError
from llamafast.request import FinishReason, SamplingParams
from tests.engine.fakes import Collector, alone, encode, make_engine, make_request, scripted

GREEDY = SamplingParams(seed=0)


def texts(outputs) -> dict[str, str]:
    result: dict[str, str] = {}
    for output in outputs:
        result[output.request_id] = result.get(output.request_id, "") + output.text
    return result


def test_generate_text_continues_it():
    assert texts(make_engine(n_ctx=400).generate("a prompt", GREEDY)) == {"0": alone("a prompt")}


def test_generate_token_ids_continue_them():
    assert texts(make_engine(n_ctx=400).generate(encode("a prompt"), GREEDY)) == {"0": alone("a prompt")}


def test_generate_several_prompts_are_numbered():
    outputs = make_engine(n_ctx=400).generate(["one", encode("two"), "three"], GREEDY)
    assert texts(outputs) == {"0": alone("one"), "1": alone("two"), "2": alone("three")}


@pytest.mark.parametrize("prompts", ["", [], [""], ["a", []], [1, "a"]])
def test_generate_without_a_prompt_is_refused_before_anything_runs(prompts):
    engine = make_engine()
    with pytest.raises(InvalidRequestError):
        engine.generate(prompts)
    assert not engine.has_work


def test_generate_left_early_aborts_the_rest():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    outputs = engine.generate(["one", "two"], GREEDY)
    next(outputs)
    outputs.close()
    assert not engine.has_work
    assert engine.cache.num_live_cells() == 0
    assert texts(engine.generate("three", GREEDY)) == {"0": "a long text"}


def test_generate_busy_engine_is_refused():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    outputs = engine.generate("one", GREEDY)
    next(outputs)
    with pytest.raises(RuntimeError):
        engine.generate("two")


def test_generate_second_iterator_of_a_busy_engine_is_refused_and_the_first_continues():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    first, second = engine.generate("one", GREEDY), engine.generate("two", GREEDY)
    text = next(first).text
    with pytest.raises(RuntimeError):
        next(second)
    assert text + "".join(output.text for output in first) == "a long text"


def all_but_the_end(engine):
    """An iterator of generate() that has yielded its last output and is not exhausted yet."""
    outputs = engine.generate("one", GREEDY)
    while next(outputs).usage is None:
        pass
    return outputs


def test_generate_dropped_late_leaves_a_later_one_alone():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    first, second = all_but_the_end(engine), engine.generate("two", GREEDY)
    text = next(second).text
    first.close()
    assert text + "".join(output.text for output in second) == "a long text"


def test_generate_resumed_late_takes_nothing_from_a_later_one():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    first, second = all_but_the_end(engine), engine.generate("two", GREEDY)
    text = next(second).text
    assert list(first) == []
    assert text + "".join(output.text for output in second) == "a long text"


def test_generate_never_started_leaves_a_later_one_alone():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    first, second = engine.generate("one", GREEDY), engine.generate("two", GREEDY)
    text = next(second).text
    first.close()
    assert text + "".join(output.text for output in second) == "a long text"


def test_generate_left_early_leaves_other_requests_alone():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    outputs = engine.generate("one", GREEDY)
    next(outputs)
    engine.add(make_request("0", "two"))
    outputs.close()
    assert Collector().run(engine).text == {("0", 0): "a long text"}


def test_generate_of_a_closed_engine_says_so():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    outputs = engine.generate("one", GREEDY)
    next(outputs)
    engine.close()
    for call in (lambda: next(outputs), lambda: engine.generate("two"), lambda: engine.add(make_request("0"))):
        with pytest.raises(EngineDeadError, match="closed"):
            call()


def test_generate_dropped_after_the_engine_was_closed_is_silent():
    engine = make_engine(scripted("a long text"), n_ctx=400)
    outputs = engine.generate("one", GREEDY)
    next(outputs)
    engine.close()
    outputs.close()
    assert list(outputs) == []


def test_validate_prompt_that_never_fits_is_too_long():
    engine = make_engine(n_ctx=64)
    engine.validate(make_request("0", "x" * 63))
    with pytest.raises(ContextLengthError):
        engine.validate(make_request("0", "x" * 64))


def test_validate_max_seq_len_bounds_prompt_and_output():
    engine = make_engine(scripted("y" * 99), n_ctx=400, config=EngineConfig(n_seq_max=4, max_seq_len=20))
    with pytest.raises(ContextLengthError):
        engine.validate(make_request("0", "x" * 20))
    assert len(Collector().run(engine, make_request("0", "x" * 15)).text["0", 0]) == 5


def test_validate_streams_have_their_share_of_the_context():
    engine = make_engine(n_ctx=400, kv_unified=False)
    assert engine.max_seq_len == 100


def test_max_output_tokens_bounds_every_request():
    engine = make_engine(scripted("y" * 99), n_ctx=400, config=EngineConfig(n_seq_max=4, max_output_tokens=7))
    collector = Collector().run(engine, make_request("0"), make_request("1", max_tokens=50))
    assert [len(text) for text in collector.text.values()] == [7, 7]


def test_add_id_in_use_is_refused():
    engine = make_engine()
    engine.add(make_request("0"))
    with pytest.raises(InvalidRequestError):
        engine.add(make_request("0"))


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 4, 6])
def test_abort_in_any_state_frees_at_once(kind, num_steps):
    engine = make_engine(scripted("text", "text"), n_ctx=400, n_batch=8, kind=kind)
    engine.add(make_request("0", "a prompt of 24 tokens..", n=2))
    engine.add(make_request("1", "another prompt"))
    collector = Collector()
    for _ in range(num_steps):
        collector.add(engine.step())
    engine.abort("0")
    engine.check_integrity()
    assert all(sequence.request_id == "1" for sequence in engine.scheduler.running + engine.scheduler.prefilling)
    collector.run(engine)
    assert collector.finished["0", 0].finish_reason is FinishReason.ABORT
    assert "0" in collector.usage
    assert collector.text["1", 0] == "text"


def test_abort_queued_request_is_never_computed():
    engine = make_engine(scripted("text"), n_ctx=400, n_seq_max=1)
    engine.add(make_request("0"))
    engine.add(make_request("1"))
    engine.step()
    engine.abort("1")
    collector = Collector().run(engine)
    assert collector.finished["1", 0].finish_reason is FinishReason.ABORT
    assert sum(sum(step.values()) for step in engine.runner.steps) == len("hello") + len("text")


def test_abort_unknown_or_finished_id_is_ignored():
    engine = make_engine(scripted("a"), n_ctx=400)
    Collector().run(engine, make_request("0"))
    engine.abort("0")
    engine.abort("never")
    assert not engine.has_work


def test_abort_preempted_request_leaves_the_queue():
    engine = make_engine(scripted("x" * 60), n_ctx=64)
    for i in range(3):
        engine.add(make_request(str(i), f"{i}234567", max_tokens=50))
    while not engine.stats.preemptions:
        engine.step()
    victim = engine.scheduler.waiting[0].request_id
    engine.abort(victim)
    engine.check_integrity()
    assert not engine.scheduler.waiting
    assert len(Collector().run(engine).usage) == 3


def test_step_fatal_decode_ends_all_requests_with_the_error():
    engine = make_engine(n_ctx=400, n_seq_max=2)
    for i in range(4):
        engine.add(make_request(str(i)))
    engine.runner.failures = [-3]
    collector = Collector()
    collector.add(engine.step())
    assert engine.death is not None
    assert [output.finish_reason for output in collector.finished.values()] == [FinishReason.ERROR] * 4
    assert all(output.error is not None for output in collector.finished.values())
    assert not engine.has_work
    with pytest.raises(EngineDeadError):
        engine.add(make_request("5"))


def test_abort_all_ends_everything():
    engine = make_engine(n_ctx=400, n_seq_max=2)
    for i in range(4):
        engine.add(make_request(str(i)))
    engine.step()
    assert len(engine.abort_all()) == 4
    assert not engine.has_work
