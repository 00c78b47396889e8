"""What other systems logged, as past calls: pure functions from one record to calls.

Here belongs the shape of one source's export, a module a source. Files, identity and storage do
not (`stages.importing`).

    sources         the readers by name, and what each expects
    documents       bytes of a file (JSON lines, a JSON array or document, CSV) into records
    calls, values   `PastCall`, and reading loosely typed values
    conversations   inputs and outputs as SDKs and tracers write them, into our normal forms
    plain, openai_logs, litellm, langfuse, helicone, mlflow_traces

Promises: a record that is not the source's shape raises `WireError` and nothing else; one that is
sound but no pair (a span that called no model, a failed, refused or cut answer, content that was
redacted or shortened by the logger) gives no call; times, tokens and costs are kept where the
source has them. An error never quotes the record.
"""
