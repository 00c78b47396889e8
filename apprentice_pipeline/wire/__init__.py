"""Provider wire formats, both directions, as pure functions of bytes.

Here belongs everything that knows what OpenAI, Anthropic and Google put on the wire: requests,
responses, server-sent events, error bodies, and a provider-neutral reading of them. I/O,
storage, prices and routing do not.

    openai, anthropic, gemini   one module a provider, the same functions in all
                                (`forms.WireFormat`)
    providers                   the three by name
    streams, sse, json_array    incremental reading of streams, robust to any split of the bytes
    conversation                messages, text and request facts, whoever the provider is

Promises: bytes that are not the provider's format raise `WireError` and nothing else; a
streamed answer reads as the same value as the unstreamed one, however its bytes were cut.

The normal form of an output is a `str` for a plain text answer, else
`{"content": [blocks], "tool_calls": [calls]}` (see `outputs`).
"""
