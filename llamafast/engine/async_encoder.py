"""The engine that makes embeddings, on a thread of its own."""

from __future__ import annotations

from llamafast.engine.embedding import EmbeddingJob, EmbeddingOutput, EmbeddingRequest
from llamafast.engine.encoder import Encoder
from llamafast.engine.engine_thread import EngineThread


class AsyncEncoder(EngineThread[EmbeddingRequest, EmbeddingJob, EmbeddingOutput]):
    """Runs an Encoder on a thread of its own, delivers its outputs to one event loop, and closes it at its end.

    tokenizer: the encoder's; once the encoder is closed it tokenizes no more.
    max_seq_len: tokens of one input.
    n_embd: floats of one vector.
    model_info, context_info: facts about the model and its context.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, max_queued_requests=encoder.config.max_queued_requests)
        self.tokenizer = encoder.tokenizer
        self.max_seq_len = encoder.max_seq_len
        self.n_embd = encoder.n_embd
        self.model_info = encoder.model_info
        self.context_info = encoder.context_info
