"""A language model behind the OpenAI protocol: OpenAI's own, or whatever serves it at OPENAI_BASE_URL."""

from collections.abc import AsyncIterator, Sequence

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from retrieval import Passage

import mltrace


Messages = list[ChatCompletionMessageParam]

INSTRUCTION = "Answer the question from the context alone. Where the context does not say, say so."


def messages(question: str, passages: Sequence[Passage]) -> Messages:
    """Return the prompt."""
    context = "\n\n".join(passage.text for passage in passages)
    return [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": f"Context:\n{context}\n\nQuestion: {question}"},
    ]


class Llm:
    """The client. Each call is a run with prompt, response, settings and tokens."""

    def __init__(self) -> None:
        self._client = AsyncOpenAI()

    @mltrace.log_llm_call(run_name="llm_call", provider="openai")
    async def complete(self, messages: Messages, model: str, temperature: float) -> ChatCompletion:
        """Return the whole answer, as the client gives it: mltrace reads what it needs."""
        return await self._client.chat.completions.create(
            messages=messages, model=model, temperature=temperature
        )

    @mltrace.log_llm_call(run_name="llm_call", provider="openai")
    async def stream(self, messages: Messages, model: str, temperature: float) -> AsyncIterator[str]:
        """Yield the answer as it comes; its parts, joined, are the run's response."""
        chunks = await self._client.chat.completions.create(
            messages=messages,
            model=model,
            temperature=temperature,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text
            if chunk.usage is not None:
                usage = {
                    "input_tokens": chunk.usage.prompt_tokens,
                    "output_tokens": chunk.usage.completion_tokens,
                    "total_tokens": chunk.usage.total_tokens,
                }
                mltrace.log_metrics(usage)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()
